"""kNN against scikit-learn and against its definition."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_features import clusters
from sklearn.neighbors import KNeighborsClassifier

from zoo.errors import UserError
from zoo.evaluate.frozen import knn


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


@given(seed=st.integers(0, 10_000), k=st.integers(1, 8), n=st.integers(1, 8), t=st.sampled_from([0.07, 0.1, 1.0]))
@settings(max_examples=60, deadline=None)
def test_knn_with_ties_is_the_definition(seed: int, k: int, n: int, t: float) -> None:
    """Many vectors are equally near, and the definition does not say which of them vote.

    Every answer must be that of some choice of voters. Where all choices agree, so does scikit-learn.
    """
    rng = np.random.default_rng(seed)
    bank, queries = rng.integers(1, 3, (n, 2)).astype(float), rng.integers(1, 3, (12, 2)).astype(float)
    labels, k = rng.integers(0, 3, n), min(k, n)
    ours = knn.predict(torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries), k=k, t=t)
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    votes_of = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / t))
    theirs = votes_of.fit(unit, labels).predict(queries)
    for query, our, their in zip(queries, ours.tolist(), theirs.tolist(), strict=True):
        cosine = unit @ query / np.linalg.norm(query)
        edge = np.sort(cosine)[-k]
        sure, tied = np.flatnonzero(cosine > edge + 1e-9), np.flatnonzero(np.abs(cosine - edge) <= 1e-9)
        allowed: set[int] = set()
        for chosen in combinations(tied, k - len(sure)):
            voters = [*sure, *chosen]
            votes = np.bincount(labels[voters], np.exp(cosine[voters] / t), minlength=3)
            allowed |= set(np.flatnonzero(votes >= votes.max() * (1 - 1e-9)).tolist())
        assert our in allowed
        assert len(allowed) > 1 or our == their


def test_knn_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, labels, queries = torch.randn(50, 8), torch.randint(0, 5, (50,)), torch.randn(37, 8)
    near, rows = knn.neighbours(bank, queries, 12)
    whole = knn.predict(bank, labels, queries)
    for name, size in (("_BANK_BLOCK", 7), ("_QUERY_BLOCK", 10), ("_VOTE_CELLS", 9)):
        monkeypatch.setattr(knn, name, size)
    again, same_rows = knn.neighbours(bank, queries, 12)
    torch.testing.assert_close(again, near)
    assert torch.equal(same_rows, rows)
    assert torch.equal(knn.predict(bank, labels, queries), whole)


def test_leave_one_out_is_scikit_learn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_BANK_BLOCK", 17)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    bank = rng.normal(size=(60, 5)) + labels[:, None] * np.eye(5)[0]
    options = knn.KnnOptions(k=(9, 3))
    (k, t), tried = knn.choose_by_leave_one_out(torch.from_numpy(bank), torch.from_numpy(labels), options=options)
    assert f"k {k}, t {t:g}" in tried
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    model = KNeighborsClassifier(3, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
    right = [model.fit(np.delete(unit, i, 0), np.delete(labels, i)).predict(unit[i : i + 1]) for i in range(60)]
    assert tried["k 3, t 0.1"] == pytest.approx(100 * float((np.concatenate(right) == labels).mean()), abs=0.01)


def test_knn_s_constants_are_those_of_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wu et al.: k 200 and t .07; DINO, app. F: k 20; lightly's benchmarks: t .1."""
    assert (knn.K, knn.TEMPERATURE) == (20, 0.07)
    assert (knn.K_VALUES, knn.TEMPERATURES, knn.LEAVE_ONE_OUT) == ((200, 20), (0.07, 0.1), 10_000)
    assert knn.KnnOptions() == knn.KnnOptions((200, 20), (0.07, 0.1))
    for k, temperature in (((), (0.1,)), ((5,), ()), ((0,), (0.1,)), ((5,), (0.0,))):
        with pytest.raises(UserError, match="--set k and --set temperature take values above 0"):
            knn.KnnOptions(k, temperature)
    monkeypatch.setattr(knn, "LEAVE_ONE_OUT", 7)  # of 60 images seven are classified
    features, labels = clusters(60)
    _, tried = knn.choose_by_leave_one_out(torch.from_numpy(features), torch.from_numpy(labels))
    assert list(tried) == ["k 200, t 0.07", "k 200, t 0.1", "k 20, t 0.07", "k 20, t 0.1"]
    assert all(score in [round(100 * n / 7, 2) for n in range(8)] for score in tried.values())


def test_k_is_at_most_the_other_training_images() -> None:
    assert knn._possible(knn.K_VALUES, 41) == (40, 20)
    assert knn._possible(knn.K_VALUES, 15) == (14,)
    assert knn._possible((3, 40), 41) == (3, 40)
    with pytest.raises(UserError, match="--set k=41: the training split has 41 images, so k is at most 40"):
        knn._possible((3, 41), 41)


@pytest.mark.parametrize("t", [0.01, 0.003, 1e-4])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_small_temperature_leaves_the_vote_to_the_nearest(t: float, sign: int) -> None:
    """exp(cosine / t) does not fit into float32 there: every near class had infinite votes, or all had none."""
    bank = torch.tensor([[1.0, 0.2], [1.0, 0.1], [1.0, 0.0]])
    labels = torch.tensor([0, 1, 2])
    queries = sign * torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]])
    nearest = (queries @ torch.nn.functional.normalize(bank).T).argmax(1)
    assert knn.predict(bank, labels, queries, k=3, t=t).tolist() == labels[nearest].tolist()


def test_a_single_training_image_gives_its_own_class() -> None:
    bank, labels = torch.ones(1, 4), torch.tensor([1])
    k = knn._possible(knn.K_VALUES, 1)
    (chosen, t), _ = knn.choose_by_leave_one_out(bank, labels, options=knn.KnnOptions(k, (0.07, 0.001)))
    assert knn.predict(bank, labels, torch.ones(2, 4), k=chosen, t=t).tolist() == [1, 1]
