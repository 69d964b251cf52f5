"""One optimiser step: accumulation, checkpointed activations, precisions, and what is not finite."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import after_step, close, step_reports, tiny, tiny_run
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.data.augment import make_views
from training.data.loader import Batch, batches
from training.engine import loop
from training.engine.loop import train_steps
from training.engine.opening import open_run
from training.engine.state import Run
from training.methods import Method
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError


def without_bn(module: nn.Module) -> None:
    """Every BN becomes a normalisation of each row alone."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            module.add_module(name, nn.GroupNorm(1, child.num_features))
        else:
            without_bn(child)


def state(run: Run) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in run.method.state_dict().items()}


@pytest.mark.parametrize(
    "method", ["byol", "byol_gn", "simsiam", "instdisc", "cmc", "pirl", "localagg", "infomin", "densecl"]
)
def test_accumulated_micro_batches_are_the_large_batch(method: str, photos: Dataset, tmp_path: Path) -> None:
    recipe = tiny(method)
    if "loss" in recipe.options:  # of NCE the first micro-batch sets Z
        recipe = replace(recipe, options={**recipe.options, "loss": "softmax"})
    runs = [
        tiny_run(replace(recipe, accumulate=n), photos, tmp_path, dtype=torch.float64, change=without_bn)
        for n in (1, 4)
    ]
    whole, parts = (step_reports(run, 3) for run in runs)
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-12)
        assert (one["lr"], one["tau"]) == (other["lr"], other["tau"])
    close(state(runs[0]), state(runs[1]), 1e-12)


@pytest.mark.parametrize("method", ["cmc", "pirl", "densecl"])
def test_checkpointed_activations_change_no_bit_of_other_passes(method: str, photos: Dataset, tmp_path: Path) -> None:
    """Two encoders, several passes of one, and a hook on its last map."""
    kept, recomputed = (tiny_run(tiny(method, checkpoint_activations=on), photos, tmp_path) for on in (False, True))
    assert step_reports(kept, 2) == step_reports(recomputed, 2)
    for name, value in state(kept).items():
        assert torch.equal(value, state(recomputed)[name]), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_checkpointed_activations_take_less_memory_and_change_no_bit(
    accumulate: int, photos: Dataset, tmp_path: Path
) -> None:
    kept, recomputed = (
        tiny_run(tiny("byol", accumulate=accumulate, checkpoint_activations=on), photos, tmp_path)
        for on in (False, True)
    )
    assert step_reports(kept, 3) == step_reports(recomputed, 3)
    for name, value in state(kept).items():  # running statistics too
        assert torch.equal(value, state(recomputed)[name]), name

    def saved(run: Run) -> list[int]:
        """Bytes of each tensor that the forward pass keeps for the backward pass."""
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run.method([torch.zeros(8, 3, 32, 32)] * 2)
        return sizes

    many, few = saved(kept), saved(recomputed)
    assert len(few) < len(many) / 2
    assert sum(few) < sum(many)  # of so small a network the stem, which is not recomputed, is the most


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", True)])
def test_fp32_turns_tf32_off_during_the_run(
    precision: str, allowed: bool, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, str]] = []

    def look(run: Run) -> None:
        seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))

    after_step(1, look, monkeypatch)
    torch.backends.cudnn.allow_tf32, before = True, torch.get_float32_matmul_precision()
    loop.train(tiny("simsiam", precision=precision), photos, tmp_path / "run", device="cpu")
    assert seen == [(allowed, before if allowed else "highest")]
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, before)


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.05), ("fp16", 0.02)])
def test_half_precisions_follow_fp32(precision: str, limit: float, photos: Dataset, tmp_path: Path) -> None:
    exact, half = (tiny_run(tiny("byol", precision=p), photos, tmp_path) for p in ("fp32", precision))
    half.scaler._init_scale = 256.0  # 65536 is too much for so small a network
    references, reports = (step_reports(run, 3) for run in (exact, half))
    assert [r["loss"] for r in reports] == pytest.approx([r["loss"] for r in references], rel=limit)
    assert reports[0]["grad_norm"] == pytest.approx(references[0]["grad_norm"], rel=0.2)
    assert [r.get("scale") for r in reports] == [None if precision == "bf16" else 256.0] * 3


def test_an_overflow_of_fp16_skips_the_update_and_lowers_the_scale_but_not_forever(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tiny("simsiam", precision="fp16"), photos, tmp_path)
    before = [p.clone() for p in run.method.parameters()]
    hook = run.method.encoder.conv1.weight.register_hook(lambda g: g * torch.inf)
    assert [r["scale"] for r in step_reports(run, 2)] == [32768.0, 16384.0]
    assert run.skipped == 2
    assert all(map(torch.equal, before, run.method.parameters()))
    hook.remove()
    step_reports(run, 1)
    assert run.skipped == 0
    assert not all(map(torch.equal, before, run.method.parameters()))
    run.method.encoder.conv1.weight.register_hook(lambda g: g * torch.inf)
    monkeypatch.setattr(loop, "_MAX_SKIPPED", 2)
    with pytest.raises(UserError, match="3 updates in a row up to step 5 overflowed"):
        step_reports(run, 3)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update_and_names_the_images(
    where: str, photos: Dataset, tmp_path: Path
) -> None:
    run = tiny_run(tiny("byol"), photos, tmp_path)
    step_reports(run, 1)
    if where == "loss":
        run.method.predictor[0].weight.data[0, 0] = torch.nan
        what = "the loss is nan"
    else:
        run.method.encoder.conv1.weight.register_hook(lambda g: g.index_fill(0, torch.tensor(0), torch.nan))
        what = r"the gradient's norm is nan \(encoder.conv1.weight\)"
    before = [p.clone() for p in run.method.parameters()]
    with pytest.raises(UserError, match=f"^{what} at step 1 \\(epoch 1\\), images .*jpg and 4 more, all in") as caught:
        step_reports(run, 1)
    assert all(
        torch.equal(b.nan_to_num(), p.nan_to_num()) for b, p in zip(before, run.method.parameters(), strict=True)
    )
    facts = json.loads((tmp_path / "not_finite.json").read_text())
    (batch,) = batches(photos, batch_size=8, steps=range(1, 2), seed=0)
    assert facts["rows"] == batch.indices.tolist()
    assert facts["images"] == [photos.row_name(row) for row in facts["rows"]]
    assert all(name in str(caught.value) for name in facts["images"][:4])


def test_views_of_a_micro_batch_are_those_of_the_batch(photos: Dataset) -> None:
    """Of one that lies across two epochs."""
    across, recipe = len(photos) // 8, tiny("byol")
    (batch,) = batches(photos, batch_size=8, steps=range(across, across + 1), seed=0, drop_last=False)
    assert set(batch.epochs) == {0, 1}

    def views(part: Batch) -> list[Tensor]:
        cpu = torch.device("cpu")
        return make_views(part.images, part.indices, recipe.views, seed=0, epoch=part.epochs, device=cpu)

    whole = views(batch)
    assert batch.labels is not None
    for rows in (slice(0, 3), slice(3, 8)):
        part = batch.part(rows)
        assert part.labels is not None
        assert torch.equal(part.labels, batch.labels[rows])
        for ours, theirs in zip(views(part), whole, strict=True):
            assert torch.equal(ours, theirs[rows])


@pytest.mark.parametrize("drop_last", [True, False])
def test_two_ranks_share_each_batch_in_order(drop_last: bool, photos: Dataset) -> None:
    settings: dict[str, Any] = {"batch_size": 8, "steps": range(3, 9), "seed": 0, "drop_last": drop_last}
    parts = [batches(photos, **settings, rank=rank, ranks=2) for rank in (0, 1)]
    for whole, first, second in zip(batches(photos, **settings), *parts, strict=True):
        np.testing.assert_array_equal(whole.indices, np.concatenate([first.indices, second.indices]))
        np.testing.assert_array_equal(whole.epochs, np.concatenate([first.epochs, second.epochs]))
        assert torch.equal(whole.images.pixels, torch.cat([first.images.pixels, second.images.pixels]))


def test_compile_needs_a_compiler(photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        open_run(tiny("byol", compile=True), photos, tmp_path / "run", "cpu", False).__enter__()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["byol", "simsiam"])
def test_the_compiled_step_is_the_step(method: str, photos: Dataset, tmp_path: Path) -> None:
    plain, compiled = (tiny_run(tiny(method, compile=on), photos, tmp_path) for on in (False, True))
    for one, other in zip(step_reports(plain, 3), step_reports(compiled, 3), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert plain.method.state_dict().keys() == compiled.method.state_dict().keys()


@pytest.mark.parametrize("method", ["instdisc", "infomin"])
def test_draws_by_numpy_stay_out_of_compiled_graphs_and_no_step_compiles_anew(
    method: str, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negatives and puzzles. Graphs run uncompiled, so that every bit can be compared."""
    import torch._dynamo

    monkeypatch.setattr(Method, "compile", lambda self: nn.Module.compile(self, backend="eager"))
    recipe = tiny(method, architecture="tiny10", optim={"epochs": 3})
    plain, compiled = (tiny_run(replace(recipe, compile=on), photos, tmp_path) for on in (False, True))
    torch._dynamo.reset()
    graphs = []
    with closing(train_steps(compiled)) as steps:
        reports = []
        for _ in range(11):  # torch gives up after 8 graphs of one function
            reports.append(next(steps))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    torch._dynamo.reset()
    assert reports == step_reports(plain, 11)
    assert graphs[2:] == graphs[2:3] * 9
    assert not torch._dynamo.config.allow_unspec_int_on_nn_module, "the calling program's own setting is back"


@pytest.mark.parametrize(("method", "layer"), [("byol_gn", nn.GroupNorm), ("byol", nn.BatchNorm2d)])
def test_a_norm_gets_the_order_of_memory_that_it_is_fast_in(
    method: str, layer: type[nn.Module], photos: Dataset, tmp_path: Path
) -> None:
    """On a CPU a step with group norm took 3 times as long in channels_last; with BN that order is the fast one."""
    run = tiny_run(tiny(method, architecture={"byol_gn": "r10_gn"}.get(method, "r10")), photos, tmp_path)
    expected = torch.contiguous_format if method == "byol_gn" else torch.channels_last
    seen: list[bool] = []
    norm = next(m for m in run.method.encoder.modules() if isinstance(m, layer))
    norm.register_forward_hook(lambda _, inputs, output: seen.append(output.is_contiguous(memory_format=expected)))
    step_reports(run, 1)
    assert seen
    assert all(seen)
