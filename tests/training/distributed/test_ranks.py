"""Two real processes that share each batch over gloo: the losses of one, stops and kills included."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forked_commands import PRELOADED
from tiny_runs import METHODS, assert_same_state, close, last, log, step_reports, tiny_run, unpacked
from torch import Tensor
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from two_ranks import live, recipe_for_ranks

from training.data.loader import Batch, batches
from training.data.packed_batch import pack
from training.distributed.sync_batch_norm import group_ranks
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.numerics.counter_rng import permutation

SETTINGS = {"ZOO_TRAIN_TIMEOUT": "60", "TORCH_CPP_LOG_LEVEL": "ERROR"}
SHARED = [method for method in METHODS if method != "mocov2"]  # whose keys two ranks compute in halves, see below


@pytest.fixture(scope="module")
def launched(labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what ``two_ranks.py`` found and made in its two lives.

    torchrun's launcher runs in this process, and forks the ranks from a server that has imported everything: four
    interpreters less to start.
    """
    out = tmp_path_factory.mktemp("ranks")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="ranks",
        rdzv_endpoint="localhost:0",
        rdzv_backend="c10d",
        max_restarts=1,
        monitor_interval=0.1,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(out / "torchrun")),
    )
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        elastic_launch(config, live)(labelled_folder, out, SETTINGS)
    finally:
        for number, handler in handlers.items():  # the launcher leaves its own
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    return out


@pytest.fixture(scope="module")
def found(launched: Path) -> list[dict[str, Any]]:
    return [json.loads((launched / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_all_reduce_bn_is_bn_over_both_ranks(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert set(rank["batch_norm"]) == {"1d", "without affine", "2d", "with activation"}
        for kind, errors in rank["batch_norm"].items():
            assert {"output", "input", "running_mean", "running_var", "evaluation"} <= errors.keys()
            assert max(errors.values()) < 1e-12, (kind, errors)


def test_bn_in_groups_is_the_groups_own(found: list[dict[str, Any]]) -> None:
    """SwAV's ``bn_group_images``: groups of one rank have their own statistics, one group of both the common ones."""
    for rank in found:
        assert max(rank["groups of one rank"].values()) < 1e-12
        assert rank["statistics differ"] == {"0": False, "4": True, "8": False}


@pytest.mark.parametrize(
    ("images", "rows", "ranks", "group"),
    [(0, 64, 64, 64), (512, 64, 64, 8), (512, 128, 32, 4), (512, 512, 8, 1), (512, 64, 4, 4), (512, 64, 8, 8)],
)
def test_ranks_are_grouped_by_images(images: int, rows: int, ranks: int, group: int) -> None:
    assert group_ranks(images, rows, ranks) == group


@pytest.mark.parametrize(("images", "rows", "ranks"), [(512, 4096, 1), (512, 100, 16), (512, 64, 12), (512, 1024, 4)])
def test_ranks_that_cannot_be_grouped_are_one_line(images: int, rows: int, ranks: int) -> None:
    with pytest.raises(UserError, match=r"change accumulate .* or set bn_group_images=0") as caught:
        group_ranks(images, rows, ranks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", SHARED)
def test_two_ranks_with_half_the_batch_are_one_rank(
    method: str, launched: Path, labelled_folder: Path, tmp_path: Path
) -> None:
    run = tiny_run(recipe_for_ranks(method), open_dataset(labelled_folder), tmp_path, dtype=torch.float64)
    expected = step_reports(run, 3)
    reports, state = torch.load(launched / f"{method}-1.pt")
    for one, other in zip(expected, reports, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    close(run.method.state_dict(), state, 1e-9)


def shuffled_bn(model: Any) -> Callable[..., dict[str, Tensor]]:
    """MoCo's algorithm 1 on two ranks as the paper says it, in one process."""

    def forward(views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        query_view, key_view = views
        n = len(query_view)
        with torch.no_grad():
            keys = torch.empty(n, model.queue.shape[0], dtype=query_view.dtype)
            for of_a_rank in permutation(model.seed, model._step, n).reshape(2, -1):
                keys[of_a_rank] = F.normalize(model.key_projector(model.key_encoder(key_view[of_a_rank])))
            model._keys.append(keys)
        losses = []
        for half in (slice(n // 2), slice(n // 2, n)):
            q = F.normalize(model.projector(model.encoder(query_view[half])))
            positive, negative = (q * keys[half]).sum(1, keepdim=True), q @ model.queue
            logits = torch.cat([positive, negative], 1) / model.T
            losses.append(F.cross_entropy(logits, torch.zeros(n // 2, dtype=torch.int64)))
        return {"loss": torch.stack(losses).mean()}

    return forward


def test_moco_on_two_ranks_is_shuffled_bn(launched: Path, labelled_folder: Path, tmp_path: Path) -> None:
    run = tiny_run(recipe_for_ranks("mocov2"), open_dataset(labelled_folder), tmp_path, dtype=torch.float64)
    run.forward = shuffled_bn(run.method)
    expected = step_reports(run, 3)
    reports, state = torch.load(launched / "mocov2-1.pt")
    for one, other in zip(expected, reports, strict=True):
        assert one == pytest.approx(other, rel=1e-9)

    def per_batch(name: str) -> bool:  # what a rank's own batches leave in its BN, and nothing else reads
        return "running" in name or "tracked" in name

    close(*({k: v for k, v in s.items() if not per_batch(k)} for s in (run.method.state_dict(), state)), 1e-9)


def test_micro_batches_of_two_ranks_are_reduced_as_those_of_one(
    launched: Path, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SimSiam with two micro-batches: rank r's part of the n-th is synchronised with the other rank's n-th."""
    run = tiny_run(
        recipe_for_ranks("simsiam", accumulate=2), open_dataset(labelled_folder), tmp_path, dtype=torch.float64
    )
    order = [0, 1, 4, 5, 2, 3, 6, 7]  # rows of the ranks' first micro-batches, then of their second

    def reordered(steps: range) -> Generator[Batch, None, None]:
        for batch in batches(run.dataset, batch_size=8, steps=steps, seed=0):
            images = [image.numpy() for image in unpacked(batch.images)]
            packed = pack([images[row] for row in order])
            yield replace(batch, indices=batch.indices[order], images=packed, labels=None)

    monkeypatch.setattr(run, "batches", reordered)
    expected = step_reports(run, 3)
    reports, state = torch.load(launched / "simsiam-2.pt")
    for one, other in zip(expected, reports, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    close(run.method.state_dict(), state, 1e-9)


def test_a_loss_that_is_not_finite_on_one_rank_stops_both_before_the_update(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["not finite"].startswith("UserError the loss is nan at step 0 (epoch 1) on rank 1, images ")
        assert rank["untouched"]


def test_sigterm_to_one_rank_stops_both_after_the_same_step_and_saves(
    launched: Path, found: list[dict[str, Any]]
) -> None:
    assert [rank["stopped"].split()[0] for rank in found] == ["KeyboardInterrupt"] * 2
    hardware = [line for line in log(launched / "stopped") if "hardware" in line]
    assert [(line["step"], line["ranks"]) for line in hardware] == [(0, 2), (3, 2)]
    assert_same_state(last(launched / "whole"), last(launched / "stopped"))


def test_two_ranks_end_early_after_the_same_step(launched: Path, found: list[dict[str, Any]]) -> None:
    """The first rank alone measures; with a rate of 0 nothing rises for long. A resumed run stays where it ended."""
    state = last(launched / "early")
    assert state["step"] < state["total_steps"]
    name = f"checkpoint-{state['step']:08d}.pt"
    assert [rank["ended early"] for rank in found] == [[name, name]] * 2


def test_a_killed_rank_ends_the_other_with_one_line(launched: Path) -> None:
    said = (launched / "survivor.txt").read_text()
    assert said.startswith("UserError another rank died, or did not answer for 60 s")
    assert "--resume" in said
    assert "\n" not in said


def test_torchrun_starts_a_group_that_lost_a_rank_again_and_no_bit_differs(launched: Path) -> None:
    assert [line["step"] for line in log(launched / "killed") if "hardware" in line] == [0, 2]
    assert_same_state(last(launched / "whole"), last(launched / "killed"))
    printed = [(launched / f"stdout-{rank}.txt").read_text() for rank in (0, 1)]
    assert [text.count("trained:") for text in printed] == [1, 0]  # rank 0 alone speaks
