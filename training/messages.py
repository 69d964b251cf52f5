"""The output of the ``zoo-train`` command."""

from __future__ import annotations

import sys
from pathlib import Path

from training.ablations.result import AblationResult
from training.recipes.table import RECIPES
from zoo.system.terminal import print_line


def print_recipes() -> None:
    """Print one row per recipe, with its published result."""
    from rich.console import Console
    from rich.table import Table

    # Set up the columns.
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "epochs", "batch", "lr", "size", "data", "hardware", "expected", "source"):
        table.add_column(column, no_wrap=column in ("recipe", "lr"), justify="left")
    # Add one row for each recipe.
    for name, entry in RECIPES.items():
        config = entry.make()
        optim, views = config.optim, config.views
        small = f" + {views.small_count}x{views.small_size}" if views.small_count else ""
        table.add_row(
            name,
            str(optim.epochs),
            str(optim.batch_size),
            f"{optim.name} {optim.lr:g}",
            f"{views.size}{small}",
            entry.data,
            entry.hardware,
            f"{entry.score} ({entry.runs})" if entry.runs else entry.score,
            entry.source,
        )
    # Print the table and explain its columns.
    console = Console()
    if not console.is_terminal:  # do not cut or wrap lines in a pipe
        console.width = 200
    console.print(table)
    console.print(
        "\nexpected: top-1 of linear evaluation on the data, of one run, unless it says otherwise. [B]: BYOL, [S]: "
        "SimSiam. lr: optimiser and base rate for a batch of 256. Names end with whose hyper-parameters a small recipe "
        "has: lightly's, the paper's ([S] app. D), MoCo's demo; without one of these words they are ours.\n"
        "precision: recipes of published runs default to bf16 autocast, the originals were fp32 (SwAV: apex O1, fp16); "
        "--set precision=fp32 reproduces fp32, without TF32.",
        style="dim",
        markup=False,
    )


def print_progress(line: str) -> None:
    """Print to stderr, so that a pipe receives only the table."""
    print_line(line, file=sys.stderr, flush=True)


def print_ablation(result: AblationResult, out: Path) -> None:
    """Print the published table beside the measured one, and the rows whose intervals do not overlap."""
    from rich.console import Console
    from rich.table import Table

    from training.monitoring.collapse import COLLAPSE_RANK, COLLAPSE_SPREAD

    # Set up the columns.
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("row")
    for column in ("published", "measured", "95 % interval", "spread", "rank", "collapsed"):
        table.add_column(column, justify="right")
    # Add one row for each variant.
    for row in result["rows"]:
        interval = row["interval"]
        table.add_row(
            row["name"],
            f"{row['published']:.1f}",
            f"{row['mean']:.1f}",
            "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}",
            f"{row['spread']:.2f}",
            f"{row['rank']:.1f}",
            f"{row['collapsed']}/{len(row['cells'])}",
        )
    # Print the table and explain how its numbers were made.
    (train, images), (_, queries) = result["data"]["train"], result["data"]["test"]
    console.print(
        f"{result['title']}: {result['setting']} setting, {result['seeds']} seeds", style="bold", markup=False
    )
    console.print(table)
    console.print(
        f"\npublished: linear evaluation, ImageNet, R50 ({result['source']}). measured: {result['score']} on {queries} "
        f"test images, trained on {images} of {train}; the interval is of the mean over seeds. spread: std of z/|z| "
        "times sqrt(d); rank: effective rank of z; collapsed: a spread below "
        f"{COLLAPSE_SPREAD:g} or a rank below {COLLAPSE_RANK:g}.",
        style="dim",
        markup=False,
    )
    # Name the differences that exceed the noise of the seeds.
    if result["apart"]:
        for better, worse in result["apart"]:
            console.print(f"apart: {better} > {worse}", markup=False)
    else:
        console.print("apart: no two rows, so nothing follows about their order", markup=False)
    print_line(f"{out / result['ablation']}.json, {out / result['ablation']}.png")


def print_trained(path: Path | None) -> None:
    """Print the last checkpoint and the next command; nothing for ``None``."""
    if path is not None:
        print_line(f"trained: {path}")
        print_line(f"next: zoo-train export {path.parent} --out ENCODER.safetensors")
