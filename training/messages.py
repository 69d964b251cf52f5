"""The output of the ``zoo-train`` command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from training.ablations.result import AblationResult
from training.recipes.config import Recipe
from training.recipes.table import RECIPES, RecipeEntry
from training.sweeps.result import SweepResult
from zoo.errors import UserError
from zoo.system.terminal import print_line

_WIDTH = 100  # characters of a row, unless all columns are asked for
_DATA = {"imagenet": "ImageNet-1k", "cifar10": "CIFAR-10", "tiny": "Tiny-ImageNet"}
_NOTES = """
expected: top-1 of linear evaluation on the data, of one run, unless it says otherwise; * of several runs or
epochs, or of the released one: --full says which. [B]: BYOL, [S]: SimSiam. lr (--full): optimiser and base
rate for a batch of 256. Names end with whose hyper-parameters a small recipe has: lightly's, the paper's
([S] app. D), MoCo's demo; without one of these words they are ours.
precision: recipes of published runs default to bf16 autocast, the originals were fp32 (SwAV: apex O1, fp16);
--set precision=fp32 reproduces fp32, without TF32."""


@dataclass(frozen=True)
class RecipeFilters:
    """Which recipes are listed: part of the name, method, data (``imagenet``, ``cifar10``, ``tiny``), most epochs."""

    name: str = ""
    method: str | None = None
    data: str | None = None
    max_epochs: int | None = None

    def recipes(self) -> list[tuple[Recipe, RecipeEntry]]:
        """Return the recipes that pass. Raises UserError: a method or data set is not known, or none passes."""
        every = [(entry.make(), entry) for entry in RECIPES.values()]
        methods = list(dict.fromkeys(method for recipe, _ in every for method in _methods(recipe)))
        for option, value, known in (("--method", self.method, methods), ("--data", self.data, list(_DATA))):
            if value is not None and value not in known:
                raise UserError(f"{option} {value!r} is not known: choose from {', '.join(known)}")
        found = [
            (recipe, entry)
            for recipe, entry in every
            if self.name in recipe.name
            and (self.method is None or self.method in _methods(recipe))
            and (self.data is None or entry.data.startswith(_DATA[self.data]))
            and (self.max_epochs is None or recipe.optim.epochs <= self.max_epochs)
        ]
        if not found:
            raise UserError("no recipe is like that: leave a filter out; `zoo-train recipes` lists all")
        return found


def _methods(recipe: Recipe) -> list[str]:
    """Return the method of a recipe; MoCo v1 is the class of v2 with other settings."""
    return [recipe.method, *(["mocov1"] if recipe.name.startswith("mocov1_") else [])]


def print_recipes(filters: RecipeFilters, *, full: bool = False) -> None:
    """Print a recipe a line with its published result; on a terminal with what the columns mean.

    Args:
        full: all columns, in lines of any length.
    """
    head = ("recipe", "epochs", "batch", "data", "expected")
    rows = [(*head, "lr", "size", "hardware", "source") if full else head]
    for recipe, entry in filters.recipes():
        optim, views = recipe.optim, recipe.views
        small = f" + {views.small_count}x{views.small_size}" if views.small_count else ""
        runs = f" ({entry.runs})" if full else "*"
        score = f"{entry.score}{runs}" if entry.runs else entry.score
        cells = (recipe.name, str(optim.epochs), str(optim.batch_size), entry.data, score)
        more = (f"{optim.name} {optim.lr:g}", f"{views.size}{small}", entry.hardware, entry.source)
        rows.append((*cells, *more) if full else cells)
    # Numbers stand to the right; the last column may be cut.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:{'>' if i in (1, 2) else '<'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        print_line(line if full or len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}...")
    if sys.stdout.isatty():
        for line in _NOTES.splitlines():
            print_line(line)


def print_recommendation(
    images: int, size: int, device: str | None, memory: float | None, *, measured: bool = False
) -> None:
    """Print the recipe for somebody's images, a line for each reason, and the command that trains it."""
    from training.planning.recommend import recommend
    from zoo.system.hardware import gpu_in_sight

    found = recommend(images, size, device or ("gpu" if gpu_in_sight() else "cpu"), memory, measured=measured)
    print_line(f"{found.name}: {found.reasons['recipe']}")
    for choice in ("size", "batch", "epochs", "hours"):
        print_line(f"  {choice:6}  {found.reasons[choice]}")
    print_line(found.command)


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


def print_sweep(result: SweepResult, out: Path) -> None:
    """Print the candidates of each rung, best first, and what the last one says."""
    sizes = [part[1] for part in result["data"]]
    print_line(f"{result['recipe']}, {result['scheme']}: {result['score']}, of {sizes[1]}; trained on {sizes[0]}")
    for rung in result["rungs"]:
        print_line(f"{rung['epochs']} epochs")
        for trial in rung["trials"]:
            low, high = trial["interval"]
            fate = "  collapsed" if trial["collapsed"] else "  kept" if trial["kept"] else ""
            score = f"{trial['knn']:5.1f} %  {low:5.1f} to {high:5.1f}"
            print_line(f"  {score}  {trial['images_seen']} images  {', '.join(trial['settings'])}{fate}")
    if result["tied"]:
        tied = "; ".join(", ".join(settings) for settings in result["tied"])
        print_line(f"not told apart from the best (the intervals overlap): {tied}")
    sets = " ".join(f"--set {setting}" for setting in result["best"])
    print_line(f"best: {sets}")
    print_line(f"{out / 'sweep.json'}")


def print_trained(path: Path | None) -> None:
    """Print the last checkpoint and the next command; nothing for ``None``."""
    if path is not None:
        print_line(f"trained: {path}")
        print_line(f"next: zoo-train export {path.parent} --out ENCODER.safetensors")
