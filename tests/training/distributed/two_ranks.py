"""One of two ranks on the CPU, started by ``test_ranks.py`` through torchrun's launcher.

In its first life the group makes all checks; in the last one rank 1 gets a SIGKILL. Its second life is the command
``zoo-train run`` into the folder of the run that was killed, without ``--resume``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from tiny_runs import APART, BANKS, METHODS, add_tiny_architecture, after_step, step_reports, tiny, tiny_run
from torch import nn

from training.distributed import collectives
from training.distributed.sync_batch_norm import AllReduceBatchNorm
from training.engine import loop
from training.engine.state import Run
from training.methods import find_method
from training.recipes import table
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError


def recipe_for_ranks(method: str, **changes: Any) -> Recipe:
    """With few layers: ranks on a CPU spend their time waiting for each other's BN statistics."""
    return tiny(
        method,
        architecture={"cmc": "tiny10_cmc", "cpc": "tiny10_ln", "byol_gn": "tiny10_ln"}.get(method, "tiny10"),
        **changes,
    )


def whole_run() -> Recipe:
    """Four steps, a checkpoint after two and four, monitors after each of two epochs."""
    return recipe_for_ranks("byol", optim={"batch_size": 16}, checkpoint_steps=2, monitor_epochs=1)


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).detach().abs().max() / reference.abs().max())


def batch_norm_errors(bn: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Of this rank's half through ``AllReduceBatchNorm`` against the whole through ``bn``, after three batches."""
    bn, ours = bn.double(), AllReduceBatchNorm(type(bn)(shape[1], affine=bn.affine)).double()  # type: ignore[call-arg]
    ours.load_state_dict(bn.state_dict())
    half = slice(collectives.rank() * shape[0] // 2, (collectives.rank() + 1) * shape[0] // 2)
    generator = torch.Generator().manual_seed(0)
    errors: dict[str, float] = {}
    for _ in range(3):
        x, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        whole, part = x.clone().requires_grad_(), x[half].clone().requires_grad_()
        expected, got = bn(whole * 3 + 1), ours(part * 3 + 1)
        (expected * weight).sum().backward()
        (got * weight[half]).sum().backward()
        assert whole.grad is not None
        assert part.grad is not None
        errors |= {"output": relative(got, expected[half]), "input": relative(part.grad, whole.grad[half])}
    for (name, p), q in zip(bn.named_parameters(), ours.parameters(), strict=True):
        assert q.grad is not None
        errors[name] = relative(collectives.all_reduce_sum_(q.grad), p.grad)
    for name, buffer in bn.named_buffers():
        errors[name] = relative(dict(ours.named_buffers())[name].double(), buffer.double())
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    errors["evaluation"] = relative(ours.eval()(x), bn.eval()(x))
    return errors


def own_group_errors(shape: tuple[int, ...]) -> dict[str, float]:
    """Of this rank's half through ``AllReduceBatchNorm`` in groups of one rank against plain BN on that half."""
    bn = nn.BatchNorm2d(shape[1]).double()
    ours = AllReduceBatchNorm(nn.BatchNorm2d(shape[1]), collectives.neighbours(1)).double()
    generator = torch.Generator().manual_seed(collectives.rank())
    x, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    plain, grouped = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = bn(plain), ours(grouped)
    (expected * weight).sum().backward()
    (got * weight).sum().backward()
    assert plain.grad is not None
    assert grouped.grad is not None
    errors = {"output": relative(got, expected), "input": relative(grouped.grad, plain.grad)}
    return errors | {name: relative(getattr(ours, name), getattr(bn, name)) for name in ("running_mean", "running_var")}


def statistics_differ(recipe: Recipe, dataset: Dataset, out: Path) -> bool:
    """Whether the ranks' running means of the first BN differ after two steps, and no parameter does."""
    run = tiny_run(recipe, dataset, out, dtype=torch.float64)
    step_reports(run, 2)
    for parameter in run.method.parameters():
        both = collectives.gather(parameter[None])
        assert torch.equal(both[0], both[1])
    means = collectives.gather(dict(run.method.named_buffers())["encoder.bn1.running_mean"][None])
    return not torch.equal(means[0], means[1])


def said_by(work: Callable[[], Any]) -> str:
    """What ended ``work``."""
    try:
        work()
    except (UserError, KeyboardInterrupt) as error:
        return f"{type(error).__name__} {error}"
    return "nothing"


def send_signal(number: signal.Signals) -> Callable[[Run], None]:
    return lambda run: os.kill(os.getpid(), number)


def checks(data: Path, out: Path) -> None:
    """Writes what it found to ``rank-N.json``, and what the runs gave beside it; at the end rank 1 is killed."""
    dataset, rank = open_dataset(data), collectives.rank()
    found: dict[str, Any] = {"batch_norm": {}}
    for name, bn, shape in (
        ("1d", nn.BatchNorm1d(5), (8, 5)),
        ("without affine", nn.BatchNorm1d(5, affine=False), (8, 5)),
        ("2d", nn.BatchNorm2d(3), (4, 3, 5, 6)),
        ("with activation", BatchNormAct2d(3), (4, 3, 5, 6)),
    ):
        found["batch_norm"][name] = batch_norm_errors(bn, shape)
    found["groups of one rank"] = own_group_errors((4, 3, 5, 6))
    # a rank has 4 of the 8 images of a batch
    found["statistics differ"] = {
        images: statistics_differ(recipe_for_ranks("swav", bn_group_images=images), dataset, out)
        for images in (0, 4, 8)
    }
    for method in (*APART, *BANKS):  # with BN over all ranks, the rest must be one rank's to the last digits
        find_method(method).synchronised_bn = True
    for method, accumulate in [*((m, 1) for m in METHODS), ("simsiam", 2)]:
        run = tiny_run(recipe_for_ranks(method, accumulate=accumulate), dataset, out, dtype=torch.float64)
        reports = step_reports(run, 3)
        if rank == 0:
            torch.save((reports, run.method.state_dict()), out / f"{method}-{accumulate}.pt")

    run = tiny_run(recipe_for_ranks("byol"), dataset, out)
    before = [p.clone() for p in run.method.parameters()]
    if rank == 1:
        forward = run.forward
        run.forward = lambda *a: {k: v * torch.nan for k, v in forward(*a).items()}
    found["not finite"] = said_by(lambda: step_reports(run, 1))
    found["untouched"] = all(map(torch.equal, before, run.method.parameters()))

    def train(folder: str, resume: bool = False) -> None:
        loop.train(whole_run(), dataset, out / folder, device="cpu", resume=resume)

    train("whole")
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            after_step(2, send_signal(signal.SIGTERM), patch)
        found["stopped"] = said_by(lambda: train("stopped"))
    train("stopped", resume=True)
    optim = {"batch_size": 16, "epochs": 6, "lr": 0.0}
    early = recipe_for_ranks("byol", optim=optim, monitor_epochs=1, early_stop_patience=1)
    found["ended early"] = [
        loop.train(early, dataset, out / "early", device="cpu", resume=resume).name for resume in (False, True)
    ]
    (out / f"rank-{rank}.json").write_text(json.dumps(found))
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            after_step(3, send_signal(signal.SIGKILL), patch)
        train("killed")


def first_life(data: Path, out: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, when rank 1 is gone: the other ends by itself

    def work() -> None:
        with collectives.process_group("cpu"):
            checks(data, out)

    (out / "survivor.txt").write_text(said_by(work))
    sys.exit(1)


def live(data: Path, out: Path, environment: dict[str, str]) -> None:
    """The life of a rank: torchrun's launcher calls it again when it has ended with an error."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    add_tiny_architecture()
    if not collectives.restarted():
        first_life(data, out)
    recipe = whole_run()
    table.find = lambda name: recipe
    sys.argv[1:] = ["run", "tiny", "--data", str(data), "--out", str(out / "killed"), "--device", "cpu"]
    from training.cli import main

    with (out / f"stdout-{os.environ['RANK']}.txt").open("w") as file, redirect_stdout(file):
        main()
