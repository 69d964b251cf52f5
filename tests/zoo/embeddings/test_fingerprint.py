"""The fingerprint reads and writes the JSON that plans and manifests have always had."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.embeddings.fingerprint import Fingerprint
from zoo.extraction.fingerprint import ExtractionConfig, make_fingerprint

COMPLETE: dict[str, Any] = {
    "model": "simclr_r18_mini.tin32",
    "weights_sha256": None,
    "preprocessing": {"input_size": 40, "mean": [0.485, 0.456, 0.406]},
    "device": "cpu",
    "crops": "ten",
    "dim": 512,
    "versions": {"siamese-zoo": "0.2.0", "pyarrow": "26.0.1"},
    "outputs": {"layer1": [64], "tiles": [2, 3, 512]},
    "decoder": {"library": "Pillow", "max_pixels": 64_000_000},
    "format": "npy",
    "dtype": "float16",
    "batch_size": 64,
    "shard_size": 4,
    "keep": ["label"],
    "dedupe": {"near": 0.99},
}
OPTIONAL = ["versions", "outputs", "decoder", "dtype", "keep", "dedupe", "crops", "device"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    absent=st.sets(st.sampled_from(OPTIONAL)), unknown=st.dictionaries(st.text(min_size=9, max_size=12), json_values)
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_what_is_read_is_written_again(absent: set[str], unknown: dict[str, Any]) -> None:
    there = {key: value for key, value in COMPLETE.items() if key not in absent} | unknown
    fingerprint = Fingerprint.from_json(json.loads(json.dumps(there)))
    assert fingerprint.to_json() == there
    canonical = json.dumps(there, sort_keys=True, separators=(",", ":")).encode()
    assert fingerprint.canonical() == canonical
    again = Fingerprint.from_json(json.loads(canonical))
    assert (again, again.differences(fingerprint)) == (fingerprint, [])


def test_differences_are_named_in_the_order_of_the_fingerprint() -> None:
    there = Fingerprint.from_json(COMPLETE)
    now = Fingerprint.from_json(COMPLETE | {"shard_size": 5, "model": "other", "dtype": "float32"})
    assert [text.split()[0] for text in there.differences(now)] == ["model", "dtype", "shard_size"]


@pytest.mark.parametrize(
    "damage",
    [
        {"dim": None}, {"dim": "512"}, {"dim": True}, {"outputs": [64]}, {"outputs": {"layer1": 64}}, {"format": 3},
        {"shard_size": 1.5}, {"dedupe": {}}, {"dedupe": {"near": "x"}}, {"keep": "label"}, {"versions": []},
    ],
)  # fmt: skip
def test_what_is_no_fingerprint_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Fingerprint.from_json(COMPLETE | damage)


def test_a_new_one_is_as_a_plan_gives_it_back() -> None:
    from extraction_driver import PixelMeans

    made = make_fingerprint(PixelMeans(stages=True), ExtractionConfig(keep=("label",), dedupe=True, batch_size=3))
    assert Fingerprint.from_json(json.loads(made.canonical())) == made
    assert made.shapes == {"embedding": (24,), "layer1": (3,), "layer1_map": (3, 4, 4)}
    assert (made.dtype, made.near_threshold, made.max_pixels, made.on_cpu) == ("float32", "auto", 64_000_000, True)
