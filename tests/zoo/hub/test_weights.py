"""Weights are what the registry says, or they are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

import zoo
from zoo.errors import UserError
from zoo.hub import exported_encoder, networks, weights
from zoo.models import checkpoint_dir
from zoo.models.backbones import find_backbone
from zoo.models.model_config import ModelConfig
from zoo.models.registry import DEFAULT_MODEL
from zoo.models.resnet import build_encoder
from zoo.models.state_dict import read_tensors, to_safetensors


def altered(source: Path, out: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """A copy of a weight file with tensors replaced or (``None``) removed."""
    tensors = load_file(source)
    _, metadata = read_tensors(source)
    for key, value in change.items():
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    save_file(tensors, out, metadata=metadata)
    return out


def test_a_saved_encoder_comes_back(random_weights: Path) -> None:
    file = weights.locate(random_weights)
    assert (file.name, file.method, file.architecture.num_features) == ("random_r18", "byol", 512)
    state = load_file(random_weights)
    for key, value in networks.load_encoder(file).state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key]), key


def test_parameters_are_those_of_the_file_and_not_the_stated_ones(random_weights: Path, tmp_path: Path) -> None:
    exported = weights.locate(random_weights)
    expected = sum(p.numel() for p in networks.load_encoder(exported).parameters())
    wrong = replace(exported.architecture, parameters=7)
    config = ModelConfig("wrong", None, "byol", wrong, exported.preprocessing, "none", "")
    folder = tmp_path / "model"
    checkpoint_dir.write(folder, config, load_file(random_weights))
    for place in (random_weights, folder):
        assert weights.locate(place).architecture.parameters == expected


def test_half_precision_keeps_bn_in_float32(random_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.safetensors"
    _, metadata = read_tensors(random_weights)
    exported_encoder.save_encoder(out, load_file(random_weights), metadata, half=True)
    types = {v.dtype for k, v in load_file(out).items() if v.ndim == 1}
    assert types == {torch.float32}
    assert {v.dtype for v in load_file(out).values() if v.ndim == 4} == {torch.float16}
    assert all(p.dtype == torch.float32 for p in networks.load_encoder(weights.locate(out)).parameters())


@pytest.mark.parametrize("name", ["byol_r18", "byol_r50x4", "simsiam_r200"])
def test_a_name_without_weights_says_how_to_train(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} has no released weights.*zoo-train run {name}_in1k"):
        zoo.load(name)


def test_official_weights_are_not_replaced_by_random_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set and .*pretrain_res50x1\.pkl is not in the cache"):
        zoo.load("byol_r50")


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".onnx"])
def test_a_name_that_no_file_system_takes_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^(unknown model|no ONNX file at)"):
        zoo.load(name, device="cpu")


def test_an_unknown_tag_names_the_known(random_weights: Path) -> None:
    with pytest.raises(UserError, match="its tags: deepmind_in1k"):
        zoo.load("byol_r50.other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, r"1 keys differ, first conv1\.weight"),
        ({"extra": torch.zeros(1)}, "1 keys differ, first extra"),
        ({"bn1.weight": torch.ones(65)}, r"first bn1\.weight"),
        ({"bn1.bias": torch.full((64,), float("nan"))}, r"not finite, first in bn1\.bias"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    random_weights: Path, tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        zoo.load(altered(random_weights, tmp_path / "x.safetensors", change))


def test_a_foreign_or_broken_file_is_refused(tmp_path: Path, random_weights: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(2)}, foreign)
    with pytest.raises(UserError, match="not written by `zoo-train export`"):
        zoo.load(foreign)
    data = random_weights.read_bytes()
    for n, cut in enumerate((0, 7, 8, 1000, len(data) - 1)):
        broken = tmp_path / f"broken{n}.safetensors"
        broken.write_bytes(data[:cut])
        with pytest.raises(UserError, match="is not a safetensors file"):
            zoo.load(broken)
    with pytest.raises(UserError, match=r"no weights at [^;]*$"):
        zoo.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("text", ["org/model", "https://huggingface.co/org/model"])
def test_a_repository_without_its_prefix_gets_a_hint(text: str) -> None:
    with pytest.raises(UserError, match=r"no weights at .*; a repository of a model hub is hf-hub:org/model$"):
        zoo.load(text)


def test_a_number_without_end_in_metadata_is_refused(tmp_path: Path, random_weights: Path) -> None:
    _, metadata = read_tensors(random_weights)
    network = (
        '{"name": "vit_tiny_patch16_224", "stem": "imagenet", "model_args": {}, "num_features": %s, "parameters": 1}'
    )
    for number in ("1e999", "NaN"):
        save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors", metadata | {"architecture": network % number})
        with pytest.raises(UserError, match="metadata that this version does not understand"):
            zoo.load(tmp_path / "m.safetensors", device="cpu")


def test_images_of_other_channels_than_the_networks_are_refused(tmp_path: Path, random_weights: Path) -> None:
    gray = {"input_size": 64, "resize": 64, "mean": [0.5], "std": [0.5]}
    state, metadata = read_tensors(random_weights)
    save_file(state, tmp_path / "m.safetensors", metadata | {"preprocessing": json.dumps(gray)})
    with pytest.raises(UserError, match="images of 1 channels, a network of 3"):
        zoo.load(tmp_path / "m.safetensors", device="cpu")


def test_images_of_a_size_that_the_network_does_not_take_are_refused(tmp_path: Path) -> None:
    """Without the check the first image ends in an AssertionError of timm; a ResNet takes any size."""
    found = find_backbone("test_vit", (160,))
    network = {
        "name": "test_vit",
        "stem": "imagenet",
        "model_args": found.model_args,
        "num_features": found.num_features,
        "parameters": found.parameters,
    }
    for side, fits in ((160, True), (100, False)):
        metadata = {
            "architecture": network,
            "method": "byol",
            "preprocessing": {"input_size": side, "resize": side},
            "licence": "MIT",
        }
        exported_encoder.save_encoder(tmp_path / "m.safetensors", build_encoder(found).state_dict(), metadata)
        if fits:
            assert zoo.load(tmp_path / "m.safetensors", device="cpu").model.num_features == found.num_features
            continue
        with pytest.raises(UserError, match="states images of 3 channels and 100 pixels, which its network does not"):
            zoo.load(tmp_path / "m.safetensors", device="cpu")


def test_a_changed_bundled_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = weights.locate(DEFAULT_MODEL)
    data = bytearray(file.path.read_bytes())
    data[-1] ^= 1
    (tmp_path / file.path.name).write_bytes(data)
    monkeypatch.setattr(weights, "BUNDLED", tmp_path)
    with pytest.raises(UserError, match="does not have the sha256 of the registry"):
        zoo.load()


def test_the_same_encoder_is_the_same_file_each_time(random_weights: Path, tmp_path: Path) -> None:
    """safetensors writes the metadata in the order of a hash map."""
    state, _ = read_tensors(random_weights)
    metadata = {"architecture": "r18", "method": "byol", "licence": "MIT", "source": '\u732b "q"', "training": "{}"}
    hashes = {exported_encoder.save_encoder(tmp_path / f"{n}.safetensors", state, metadata) for n in range(4)}
    assert len(hashes) == 1
    tensors, read = read_tensors(tmp_path / "0.safetensors")
    assert read == metadata | {"format": exported_encoder.FORMAT}
    assert all(torch.equal(tensors[key], value) for key, value in state.items())


@pytest.mark.parametrize("text", ["pt", "\u732b", 'a "b" \\ /', "\n\t\x01\x7f"])
def test_one_entry_of_metadata_gives_the_bytes_of_safetensors(text: str) -> None:
    tensors = {"b": torch.arange(3.0), "\u732b": torch.zeros(2, dtype=torch.float16)}
    assert to_safetensors(tensors, {"format": text}) == save(tensors, {"format": text})


def test_safetensors_whose_header_begins_as_a_pickle_does(random_weights: Path, tmp_path: Path) -> None:
    """The first byte is the low one of the header's length, so it can be the 0x80 of a pickle."""
    state, metadata = read_tensors(random_weights)
    begin = next(
        data
        for n in range(256)
        if (data := to_safetensors(state, metadata | {"source": "x" * 8 * n}))[0] == 0x80  # lengths are multiples of 8
    )
    (tmp_path / "a.safetensors").write_bytes(begin)
    assert weights.locate(tmp_path / "a.safetensors").sha256 is not None
