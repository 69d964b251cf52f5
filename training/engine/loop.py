"""The training loop, from top to bottom: ``train`` opens a run, and ``train_steps`` makes its steps."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from training.data.augment import make_views
from training.data.loader import Batch
from training.distributed import collectives
from training.distributed.sync_batch_norm import PreservedRunningStats
from training.engine import checkpoint, schedules
from training.engine.cost import duration, expectation
from training.engine.oom import explain_out_of_memory
from training.engine.opening import open_run
from training.engine.optim import set_learning_rate
from training.engine.signals import StopSignal
from training.engine.state import Run, save
from training.engine.validate import check_losses
from training.methods import StepInfo
from training.monitoring.collapse import COLLAPSE_WARNING, measure_outputs
from training.monitoring.finetune_probe import finetuned_accuracy
from training.monitoring.loggers import OpenLogger
from training.monitoring.metrics_log import MetricsLog
from training.recipes.config import Recipe, to_json
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.models.memory_format import training_format
from zoo.system import atomic_files
from zoo.system.hardware import emulates_bf16
from zoo.system.malloc import keep_freed_memory
from zoo.system.progress import Progress
from zoo.system.torch_defaults import float32_on_cpu
from zoo.system.verbosity import note

_LOG_STEPS = 20
_TIMED_STEPS = 5  # after the first one, which is slower; then the time that is left is said
_SOON = 60  # seconds that need no such line
_MAX_SKIPPED = 30  # after so many halvings a scale of 2^16 is below 1e-4: no gradient needs less
_SHOWN_IMAGES = 4  # in the error message for a loss that is not finite
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@float32_on_cpu()
def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    device: str,
    resume: bool = False,
    loggers: Sequence[OpenLogger] = (),
    changing: Collection[str] = (),
    init: str | None = None,
) -> Path:
    """Train ``recipe`` on ``dataset`` and return the path of the last checkpoint. A collective call.

    ``folder`` receives checkpoints and ``log.jsonl``: a line with the hardware of each part of the run, a line every 20
    steps, and one after every monitor. ``loggers`` receive the same on the first rank. A resumed run may
    change the fields ``changing`` (``training.engine.state.REPLANNED``); a new one can start from the weights
    ``init``. Equal recipe, data, device, ranks and versions give equal bytes, whether the run was interrupted
    or not, and whatever defaults for new tensors the calling program has set in torch.

    Raises:
        UserError: the folder holds another run, or this one without ``resume``; there are too few images or too many
            unreadable ones; the device does not exist; a loss or gradient is not finite (the last checkpoint is then
            finite).
        KeyboardInterrupt: a rank received SIGTERM or Ctrl-C; the step in progress is complete and saved.
    """
    with (
        explain_out_of_memory(),
        open_run(recipe, dataset, folder, device, resume, changing=changing, init=init) as run,
    ):
        if run.device.type == "cpu":
            keep_freed_memory()
        if run.is_stopped:
            if collectives.rank() == 0:
                note(f"the run has ended: {run.early_stop.reason}; --change with early_stop_patience=0 goes on")
            return folder / checkpoint.file_name(run.step)
        if run.step < run.total_steps and collectives.rank() == 0:
            left = (run.total_steps - run.step) * recipe.optim.batch_size
            note(expectation(recipe, run.device, images=left, ranks=collectives.world_size(), entries=len(dataset)))
        with tf32(recipe.precision != "fp32"), closing(train_steps(run, loggers=loggers)) as steps:
            for _ in steps:
                pass
        return folder / checkpoint.file_name(run.step)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Turn TF32 off while the context is open, unless ``allowed``; torch allows it in cuDNN's convolutions by default.

    The GPUs of the published runs had no TF32, so ``precision=fp32`` means full float32 on newer ones too.
    """
    # Remember the settings of the process, to restore them later.
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    if not allowed:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@contextmanager
def numpy_outside_graphs(compiled: bool) -> Iterator[None]:
    """Keep a method's random draws with numpy out of the graphs of ``torch.compile``, if the run is compiled.

    Methods draw negatives, puzzles and shuffles with numpy, from the step. torch 2.14 translates numpy into operations
    that it lacks for uint64, and takes a module's counter of steps for a constant, so that each step compiles anew.
    """
    if not compiled:
        yield
        return
    from torch._dynamo import config

    with config.patch(trace_numpy=False, allow_unspec_int_on_nn_module=True):
        yield


def train_steps(run: Run, *, loggers: Sequence[OpenLogger] = ()) -> Generator[dict[str, float], None, None]:
    """Make the remaining steps of ``run``, one per ``next``, so that tests and benchmarks can drive them singly.

    Yields:
        After each step its losses (means over the batch of all ranks), ``lr``, ``tau`` and ``grad_norm``; with fp16
        also ``scale``, and no ``grad_norm`` if the update was skipped.

    Raises:
        UserError, KeyboardInterrupt: as ``train``.
    """
    # ---------------------------------------------------------------- set-up
    recipe, config, method, optimiser, scaler = run.recipe, run.recipe.optim, run.method, run.optimiser, run.scaler
    sampler, total_steps = run.sampler, run.total_steps
    ranks, is_first_rank = collectives.world_size(), collectives.rank() == 0
    dtype = next(method.encoder.parameters()).dtype
    layout = training_format(method, run.device)
    micro_batch_size = config.batch_size // ranks // recipe.accumulate
    backward_context = PreservedRunningStats(method.modules()) if recipe.checkpoint_activations else nullcontext()
    opened = [opens(run.folder, run.step, to_json(recipe)) for opens in loggers] if is_first_rank else []
    # Open what must be closed again, however the run ends.
    with (
        numpy_outside_graphs(recipe.compile),
        StopSignal() as stop,
        MetricsLog(run.folder if is_first_rank else None, opened) as metrics_log,
        Progress("images", stream=None if is_first_rank else io.StringIO()) as progress,
        closing(run.batches(range(run.step, total_steps))) as batches,
    ):

        def log(values: Mapping[str, object]) -> None:
            metrics_log.write(run.step, {"seconds": round(run.seconds, 1), **values})

        # Report how the run starts, or where it resumes.
        progress.start(total_steps * config.batch_size, run.step * config.batch_size)
        if config.schedule in ("step", "swav") and config.warmup_epochs >= config.epochs:
            progress.say(
                f"the learning rate only rises: optim.warmup_epochs={config.warmup_epochs:g} covers all epochs"
            )
        if config.schedule not in ("step", "swav") and config.warmup_epochs:
            progress.say(
                f"optim.schedule={config.schedule} has no warm-up: optim.warmup_epochs={config.warmup_epochs:g} "
                "changes nothing"
            )
        if recipe.precision == "bf16" and run.device.type == "cpu" and emulates_bf16():
            progress.say(
                "this CPU has no instructions for bf16, and computes it about ten times more slowly than fp32: start "
                "again with --set precision=fp32"
            )
        for line in method.unreached(recipe, total_steps):
            progress.say(line)
        for line in run.notes:
            progress.say(line)
            log({"note": line})
        log({"hardware": run.hardware[-1], "ranks": ranks, "precision": recipe.precision})
        started, logged_step, logged_at = time.perf_counter() - run.seconds, run.step, time.perf_counter()
        first_step, timed_from = run.step, started

        for batch in batches:
            for name, reason in batch.unreadable.items():
                progress.say(f"{name} cannot be read ({reason}): another image replaces it")
                log({"unreadable": name, "reason": reason})

            # -------------------------------------------------------- schedules, which depend on the step alone
            epoch = sampler.epoch_at(batch.step)
            tau = schedules.tau(config, batch.step, total_steps)
            info = StepInfo(batch.step, total_steps, epoch, tau, sampler.fraction_at(batch.step))
            lr = schedules.learning_rate(config, batch.step, sampler)
            set_learning_rate(optimiser, config, lr)
            method.before_step(info)

            # -------------------------------------------------------- forward and backward, by micro-batches
            # Each has its own BN statistics, SimCLR's negatives and SwAV's assignment (see ``Recipe.accumulate``).
            optimiser.zero_grad(set_to_none=True)
            own_losses: dict[str, Tensor] = {}
            for number in range(recipe.accumulate):
                part = batch.part(slice(number * micro_batch_size, (number + 1) * micro_batch_size))
                views = make_views(
                    part.images, part.indices, recipe.views, seed=recipe.seed, epoch=part.epochs, device=run.device
                )
                views = [view.to(dtype, memory_format=layout) for view in views]
                labels = None if part.labels is None else part.labels.to(run.device)
                rows = [torch.from_numpy(part.rows).to(run.device)] if method.uses_rows else []
                is_last = number == recipe.accumulate - 1
                with nullcontext() if is_last else run.no_sync():  # DDP averages the gradients once
                    with torch.autocast(run.device.type, _AUTOCAST.get(recipe.precision), recipe.precision != "fp32"):
                        losses = run.forward(views, labels, *rows)
                    if run.step == first_step and not number:
                        check_losses(recipe.method, losses)
                    loss = torch.stack(list(losses.values())).sum() / recipe.accumulate
                    with backward_context:
                        torch.autograd.backward(scaler.scale(loss))
                for name, value in losses.items():
                    own_losses[name] = own_losses.get(name, 0) + value.detach() / recipe.accumulate
                del views, losses, loss  # free their memory before the next ones are made

            # -------------------------------------------------------- refuse what is not finite, before the update
            mean_losses = {name: collectives.all_reduce_sum_(v.clone()) / ranks for name, v in own_losses.items()}
            scaler.unscale_(optimiser)
            norm = torch.nn.utils.get_total_norm([p.grad for p in method.parameters() if p.grad is not None])
            *values, grad_norm = torch.stack([*mean_losses.values(), norm]).tolist()  # the step's only wait
            overflow = scaler.is_enabled() and not isfinite(grad_norm)  # the scaler skips this update
            if not all(map(isfinite, values)) or not (overflow or isfinite(grad_norm)):
                _raise_not_finite(run, batch, own_losses, grad_norm)
            run.skipped = run.skipped + 1 if overflow else 0
            if run.skipped > _MAX_SKIPPED:
                raise UserError(
                    f"fp16: {run.skipped} updates in a row up to step {batch.step} overflowed although the loss scale "
                    f"fell to {scaler.get_scale():.1g}: lower optim.lr, or use precision=bf16"
                )

            # -------------------------------------------------------- update
            method.before_update(info)
            scaler.step(optimiser)  # a plain step without fp16
            scaler.update()
            method.after_step(info)  # BYOL's target network, the queues of MoCo v2 and SwAV
            run.step, run.seconds = batch.step + 1, time.perf_counter() - started

            # -------------------------------------------------------- log
            report = dict(zip(mean_losses, values, strict=True)) | {"lr": lr, "tau": info.tau}
            if not overflow:
                report["grad_norm"] = grad_norm
            if scaler.is_enabled():
                report["scale"] = scaler.get_scale()
            progress.advance(config.batch_size, epoch=epoch + 1, loss=f"{report['loss']:.4f}")
            if run.step == first_step + 1:
                timed_from = time.perf_counter()
            elif run.step == first_step + 1 + _TIMED_STEPS:
                left = (time.perf_counter() - timed_from) / _TIMED_STEPS * (total_steps - run.step)
                if left > _SOON:
                    progress.say(f"about {duration(left)} left, by the first {_TIMED_STEPS} steps here")
            if checked := run.monitor.after_step(run.step, batch.labels):
                log(checked)
                if (warning := run.monitor.warning()) is not None:
                    progress.say(f"step {run.step}: {warning}")
                    log({"collapse": warning})
            if run.step % _LOG_STEPS == 0 or run.step == total_steps:
                now = time.perf_counter()
                rate = (run.step - logged_step) * config.batch_size / (now - logged_at)
                logged_step, logged_at = run.step, now
                accuracy = None if run.monitor.probe is None else run.monitor.probe.accuracy()
                probe = {} if accuracy is None else {"probe": round(accuracy, 2)}
                log({**report, **probe, "images_per_second": round(rate, 1)})

            # -------------------------------------------------------- monitors, after every so many epochs
            if (epochs_done := _epochs_done(run, recipe.monitor_epochs)) is not None:
                if is_first_rank:
                    measured = measure_outputs(method, run.dataset, views=recipe.views, device=run.device)
                    log({"epoch": epochs_done, **measured.log_values()})
                    progress.say(f"epoch {epochs_done}: {measured}")
                    if measured.collapsed:
                        progress.say(COLLAPSE_WARNING)
                    run.early_stop.add(epochs_done, measured.knn)
                collectives.barrier()
            if (epochs_done := _epochs_done(run, recipe.finetune_epochs)) is not None:
                if is_first_rank:
                    score = finetuned_accuracy(method, recipe, run.dataset, epoch=epochs_done, device=run.device)
                    if score is not None:
                        log({"epoch": epochs_done, "finetune": round(score, 2)})
                        progress.say(f"epoch {epochs_done}: finetuned {score:.1f} %")
                collectives.barrier()
            plateau = run.step < total_steps and run.is_stopped
            if plateau and is_first_rank:
                progress.say(f"the run ends early: {run.early_stop.reason}")
                log({"early_stop": run.early_stop.reason})

            # -------------------------------------------------------- checkpoint, and stop if a signal asked for it
            stopping = stop.received()
            if stopping or plateau or run.step % recipe.checkpoint_steps == 0 or run.step == total_steps:
                save(run)
            yield report
            if plateau:
                return
            if stopping and run.step < total_steps:
                raise KeyboardInterrupt


def _epochs_done(run: Run, every: int) -> int | None:
    """Return the number of completed epochs if monitors are due: after ``every`` epochs, and at the end; 0 is never."""
    if not every:
        return None
    if run.step == run.total_steps:
        return run.recipe.optim.epochs
    before, now = run.sampler.epoch_at(run.step - 1), run.sampler.epoch_at(run.step)
    return now if now // every > before // every else None


def _raise_not_finite(run: Run, batch: Batch, own_losses: dict[str, Tensor], norm: float) -> None:
    """Raise a UserError that names step, ranks and images; ``not_finite.json`` lists all images. A collective call."""
    # The ranks whose loss is not finite, and their images; with a bad gradient, the images of all ranks.
    own_total = sum(v.double().item() for v in own_losses.values())
    totals = collectives.gather(torch.tensor([own_total], dtype=torch.float64)).tolist()
    rows = collectives.gather(torch.from_numpy(batch.rows)).tolist()
    bad_ranks = [rank for rank, total in enumerate(totals) if not isfinite(total)]
    size = len(batch.indices)
    suspects = [row for rank in bad_ranks for row in rows[rank * size : (rank + 1) * size]] or rows
    names = [run.dataset.row_name(row) for row in suspects]

    # Keep the facts in a file, as the message has no room for all images.
    epoch = run.sampler.epoch_at(batch.step) + 1
    report = run.folder / "not_finite.json"
    if collectives.rank() == 0:
        facts = {"step": batch.step, "epoch": epoch, "loss_of_rank": [str(total) for total in totals]}
        facts |= {"grad_norm": str(norm), "rows": suspects, "images": names}
        atomic_files.atomic_write_text(report, json.dumps(facts, indent=1) + "\n")

    # Say what went wrong, and where it was seen first.
    if bad_ranks:
        problem = f"the loss is {totals[bad_ranks[0]]}"
    else:
        gradients = ((name, p.grad) for name, p in run.method.named_parameters() if p.grad is not None)
        first = next((name for name, grad in gradients if not grad.isfinite().all()), "their sum overflows")
        problem = f"the gradient's norm is {norm} ({first})"
    where = f" on rank {', '.join(map(str, bad_ranks))}" if bad_ranks and collectives.world_size() > 1 else ""
    more = f" and {len(names) - _SHOWN_IMAGES} more" if len(names) > _SHOWN_IMAGES else ""
    raise UserError(
        f"{problem} at step {batch.step} (epoch {epoch}){where}, images {', '.join(names[:_SHOWN_IMAGES])}{more}, all "
        f"in {report}: the last checkpoint is good; lower optim.lr or look at these images"
    )
