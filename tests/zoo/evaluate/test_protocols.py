"""Protocols against independent implementations, and the JSON they write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from zoo.datasets import evaluation_splits
from zoo.errors import UserError
from zoo.evaluate import knn, linear
from zoo.evaluate.run import evaluate

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))


@given(seed=st.integers(0, 10_000), k=st.integers(1, 40), n=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_knn_is_scikit_learn_s(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    bank, queries = rng.normal(size=(n, 8)), rng.normal(size=(20, 8))
    labels = rng.integers(0, 4, n)
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    reference = KNeighborsClassifier(
        min(k, n), metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / knn.TEMPERATURE)
    )
    reference.fit(unit, labels)
    ours = knn.predict(torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries), k=k)
    np.testing.assert_array_equal(ours.numpy(), reference.predict(queries))


def test_knn_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, labels, queries = torch.randn(50, 8), torch.randint(0, 5, (50,)), torch.randn(37, 8)
    whole = knn.predict(bank, labels, queries)
    monkeypatch.setattr(knn, "_BLOCK", 10)
    assert torch.equal(knn.predict(bank, labels, queries), whole)


def test_linear_is_the_objective_it_states() -> None:
    """Against scikit-learn's other solver on standardised features, with C = 1 / (N l2)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    features = (rng.normal(size=(600, 10)) + 0.7 * np.eye(10)[labels * 3]).astype(np.float32)
    fit = linear.fit_predict(features[:400], labels[:400], features[400:])
    assert fit.chosen in linear.L2
    mean, std = features[:400].mean(0), features[:400].std(0) + 1e-6
    other = LogisticRegression(C=1 / (fit.chosen * 400), solver="newton-cholesky", tol=1e-8, max_iter=1000)
    other.fit((features[:400] - mean) / std, labels[:400])
    assert (other.predict((features[400:] - mean) / std) == fit.predictions).mean() > 0.99


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, start in (("train", 0), ("test", 1)):
        for n, path in enumerate(PHOTOS[start::2]):
            target = tmp_path / "data" / split / f"c{n % 2}"
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).write_bytes(path.read_bytes())
    return tmp_path / "data"


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_a_result_says_everything_and_is_the_same_again(
    protocol: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "results" / "r.json"
    first = evaluate(protocol, "byol_r18.random", folder, out=out)
    assert json.loads(out.read_text()) == first
    again = evaluate(protocol, "byol_r18.random", folder)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in first.items() if k != "seconds"}
    assert (first["protocol"], first["metric"], first["data"]["classes"]) == (protocol, "top-1", 2)
    low, high = first["interval_95"]
    assert 0 <= low <= first["score"] <= high <= 100
    assert first["data"]["test"]["sha256"] == evaluation_splits(folder)[1].sha256()


def test_cached_features_are_of_these_images(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    evaluate("knn", "byol_r18.random", folder)
    before = set((tmp_path / "cache").rglob("*.npy"))
    victim = next((folder / "train").rglob("*.jpg"))
    victim.write_bytes(PHOTOS[-1].read_bytes())
    evaluate("knn", "byol_r18.random", folder)
    assert len(set((tmp_path / "cache").rglob("*.npy")) - before) == 1  # the test images are the same


def test_an_unreadable_image_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    victim = next((folder / "test").rglob("*.jpg"))
    victim.write_bytes(b"\xff\xd8 no more")
    with pytest.raises(UserError, match=victim.name):
        evaluate("knn", "byol_r18.random", folder)
