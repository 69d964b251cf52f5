"""One optimiser step: micro-batches, precision, the check that all is finite, the update."""

from __future__ import annotations

import json
from contextlib import nullcontext
from math import isfinite

import torch
from torch import Tensor

from training.data.augment import make_views
from training.data.loader import Batch
from training.distributed import collectives
from training.distributed.sync_batch_norm import StatisticsKept
from training.engine.build import learning_rate, set_learning_rate, tau_of
from training.engine.state import Run
from training.methods import Moment
from zoo.errors import UserError
from zoo.system import atomic_files

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_SKIPPED = 30  # a scale of 2^16 is below 1e-4 after so many halvings: no gradient needs less
_SHOWN_IMAGES = 4


def optimiser_step(run: Run, batch: Batch) -> dict[str, float]:
    """Forward and backward over this rank's part of ``batch`` in micro-batches, then ONE update of everything.

    Schedules, the target network and every other hook move once, however many micro-batches and ranks there are.

    Returns:
        The losses (means over the batch of all ranks), ``lr``, ``tau`` and ``grad_norm``; with fp16 also ``scale``,
        and no ``grad_norm`` where the update was skipped.

    Raises:
        UserError: a loss or a gradient is not finite on some rank; raised on all of them, before the update.
    """
    config = run.recipe.optim
    tau = tau_of(config, batch.step, run.total_steps)
    moment = Moment(batch.step, run.total_steps, run.epochs.before(batch.step), tau)
    lr = learning_rate(config, batch.step, run.epochs)
    set_learning_rate(run.optimiser, config, lr)
    run.method.before_step(moment)
    run.optimiser.zero_grad(set_to_none=True)
    own = _forward_and_backward(run, batch)
    losses = {name: collectives.all_reduce_sum_(v.clone()) / collectives.world_size() for name, v in own.items()}
    run.scaler.unscale_(run.optimiser)
    norm = _gradient_norm(run)
    *values, norm_value = torch.stack([*losses.values(), norm.to(norm.dtype)]).tolist()  # the step's one wait
    overflow = run.scaler.is_enabled() and not isfinite(norm_value)
    if not all(map(isfinite, values)) or (not overflow and not isfinite(norm_value)):
        _refuse(run, batch, own, norm_value)
    _count_skipped(run, batch, overflow)
    run.method.before_update(moment)
    run.scaler.step(run.optimiser)  # without the scaler a plain step
    run.scaler.update()
    run.method.after_step(moment)
    report = dict(zip(losses, values, strict=True)) | {"lr": lr, "tau": moment.tau}
    if not overflow:
        report["grad_norm"] = norm_value
    if run.scaler.is_enabled():
        report["scale"] = run.scaler.get_scale()
    return report


def _forward_and_backward(run: Run, batch: Batch) -> dict[str, Tensor]:
    """This rank's losses, means over its micro-batches; gradients, averaged over the ranks, are left in place.

    A micro-batch has its own BN statistics, SimCLR only its own negatives, and SwAV its own Sinkhorn assignment: for
    those the sum over micro-batches is not the large batch (see ``Recipe.accumulate``).
    """
    parts = run.recipe.accumulate
    totals: dict[str, Tensor] = {}
    keep_statistics = StatisticsKept(run.method.modules()) if run.recipe.checkpoint_activations else nullcontext()
    size = len(batch.indices) // parts
    for number in range(parts):
        views, labels = _inputs(run, batch.part(slice(number * size, (number + 1) * size)))
        with nullcontext() if number == parts - 1 else run.without_reduction():
            with torch.autocast(run.device.type, _AUTOCAST.get(run.recipe.precision), run.recipe.precision != "fp32"):
                losses = run.forward(views, labels)
            loss = torch.stack(list(losses.values())).sum() / parts
            with keep_statistics:
                torch.autograd.backward(run.scaler.scale(loss))
        for name, value in losses.items():
            totals[name] = totals.get(name, 0) + value.detach() / parts
    return totals


def _inputs(run: Run, batch: Batch) -> tuple[list[Tensor], Tensor | None]:
    """Views and labels of a (micro-)batch, on the device, in the parameters' precision."""
    recipe, device = run.recipe, run.device
    views = make_views(batch.images, batch.indices, recipe.views, seed=recipe.seed, epoch=batch.epochs, device=device)
    return [v.to(run.dtype) for v in views], None if batch.labels is None else batch.labels.to(device)


def _gradient_norm(run: Run) -> Tensor:
    """Euclidean norm of all gradients, not finite if any of them is not; the same on all ranks."""
    gradients = [p.grad for p in run.method.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _count_skipped(run: Run, batch: Batch, overflow: bool) -> None:
    run.skipped = run.skipped + 1 if overflow else 0
    if run.skipped > _MOST_SKIPPED:
        raise UserError(
            f"fp16: {run.skipped} updates in a row up to step {batch.step} overflowed although the loss scale fell to "
            f"{run.scaler.get_scale():.1g}: lower optim.lr, or use precision=bf16"
        )


def _refuse(run: Run, batch: Batch, own: dict[str, Tensor], norm: float) -> None:
    """Names step, ranks and images; ``not_finite.json`` has all of the batch. A collective call."""
    epoch, total = run.epochs.before(batch.step) + 1, sum(v.double().item() for v in own.values())
    totals = collectives.gather(torch.tensor([total], dtype=torch.float64)).tolist()
    rows = collectives.gather(torch.from_numpy(batch.rows)).tolist()
    guilty = [rank for rank, value in enumerate(totals) if not isfinite(value)]
    size = len(batch.indices)
    suspects = [row for rank in guilty for row in rows[rank * size : (rank + 1) * size]] or rows
    names = [run.dataset.row_name(row) for row in suspects]
    what = f"the loss is {totals[guilty[0]]}" if guilty else f"the gradient's norm is {norm} ({_first_bad(run)})"
    if collectives.rank() == 0:
        facts = {"step": batch.step, "epoch": epoch, "loss_of_rank": [str(t) for t in totals]}
        facts |= {"grad_norm": str(norm), "rows": suspects, "images": names}
        atomic_files.atomic_write_text(run.folder / "not_finite.json", json.dumps(facts, indent=1) + "\n")
    more = f" and {len(names) - _SHOWN_IMAGES} more" if len(names) > _SHOWN_IMAGES else ""
    on = f" on rank {', '.join(map(str, guilty))}" if guilty and collectives.world_size() > 1 else ""
    shown = ", ".join(names[:_SHOWN_IMAGES]) + more
    raise UserError(
        f"{what} at step {batch.step} (epoch {epoch}){on}, images {shown}, all in "
        f"{run.folder / 'not_finite.json'}: the last checkpoint is good; lower optim.lr or look at these images"
    )


def _first_bad(run: Run) -> str:
    named = run.method.named_parameters()
    return next((name for name, p in named if p.grad is not None and not p.grad.isfinite().all()), "the sum overflows")
