"""The curves of one or several runs, from their logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from training.monitoring import metrics_log
from zoo.errors import UserError
from zoo.system.atomic_files import atomic_write, make_folder

_PANELS = (  # field of the log, what it is called
    ("loss", "loss"),
    ("knn", "kNN monitor, %"),
    ("probe", "online linear probe, %"),
    ("spread", "spread of z/|z|, 1 = isotropic"),
    ("effective_rank", "effective rank of z/|z|"),
    ("grad_norm", "gradient norm"),
    ("lr", "learning rate"),
    ("tau", "target momentum tau"),
    ("images_per_second", "images/s"),
)
_COLUMNS = 3
_POINTS = 400  # of a curve; each the mean of the logged values around it


def plot(folders: list[Path], out: Path) -> list[str]:
    """Writes a PNG with a panel for each thing that any of the runs logged; returns what these are.

    Raises:
        UserError: a folder holds no run, nothing was logged yet, or matplotlib is not installed.
    """
    runs = {str(folder): metrics_log.read(folder) for folder in folders}
    panels = [(f, title) for f, title in _PANELS if any(_curve(lines, f)[0] for lines in runs.values())]
    if not panels:
        raise UserError(f"{folders[0]} has logged nothing to draw yet: a line comes every 20 steps")
    make_folder(out.parent)
    atomic_write(out, lambda file: _draw(runs, panels, file))
    return [field for field, _ in panels]


def _curve(lines: list[dict[str, Any]], field: str) -> tuple[list[float], list[float]]:
    """Steps and values, thinned; an epoch's monitor and a check at the same step are one point, the later."""
    values = {line["step"]: line[field] for line in lines if field in line}
    points = sorted(values.items())
    size = max(1, -(-len(points) // _POINTS))
    chunks = [points[n : n + size] for n in range(0, len(points), size)]
    return [c[-1][0] for c in chunks], [sum(v for _, v in c) / len(c) for c in chunks]


def _draw(runs: dict[str, list[dict[str, Any]]], panels: list[tuple[str, str]], file: BinaryIO) -> None:
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'siamese-zoo[train]'") from None
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(4.2 * min(_COLUMNS, len(panels)), 2.6 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, min(_COLUMNS, len(panels)), squeeze=False).ravel()
    for axes, (field, title) in zip(grid, panels, strict=False):
        for number, (name, lines) in enumerate(runs.items()):
            steps, values = _curve(lines, field)
            style = "o-" if len(steps) < 30 else "-"
            axes.plot(steps, values, style, color=f"C{number % 10}", label=name, markersize=3, linewidth=1.2)
            if field in ("spread", "effective_rank"):
                for collapse in (line["step"] for line in lines if "collapse" in line):
                    axes.axvline(collapse, color=f"C{number % 10}", linestyle=":", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if field == "spread":
            axes.set_ylim(bottom=0)
    for axes in grid[len(panels) :]:
        axes.remove()
    if len(runs) > 1:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(runs)), fontsize=8)
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
