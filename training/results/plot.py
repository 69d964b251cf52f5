"""The curves of one or several runs, from their logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from training.monitoring import metrics_log
from training.monitoring.metrics_log import LogLine
from zoo.errors import UserError
from zoo.system.atomic_files import atomic_write, make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (  # field of the log, title
    ("loss", "loss"),
    ("knn", "kNN monitor, %"),
    ("finetune", "finetuning monitor, %"),
    ("probe", "online linear probe, %"),
    ("spread", "spread of z/|z|, 1 = isotropic"),
    ("effective_rank", "effective rank of z/|z|"),
    ("grad_norm", "gradient norm"),
    ("lr", "learning rate"),
    ("tau", "target momentum tau"),
    ("images_per_second", "images/s"),
)
_FORMATS = {"": "png", ".png": "png", ".pdf": "pdf", ".svg": "svg"}  # by the ending of the file
_UNSTABLE = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}  # metadata that differs between equal figures
_COLUMNS = 3
_POINTS = 400  # per curve


def plot(folders: list[Path], out: Path) -> list[str]:
    """Write a figure with a panel for each field that one of the runs has logged, and return these fields.

    Args:
        out: ends in ``.png``, ``.pdf`` or ``.svg``; without an ending it becomes a PNG.

    Raises:
        UserError: ``out`` has another ending, a folder holds no run, nothing was logged yet, or matplotlib is not
            installed.
    """
    format = _FORMATS.get(out.suffix.lower())
    if format is None:
        raise UserError(f"--out {out}: give a name that ends in .png, .pdf or .svg")
    runs = {str(folder): metrics_log.read(folder) for folder in folders}
    logged = {field for lines in runs.values() for line in lines for field in line}
    panels = [(field, title) for field, title in _PANELS if field in logged]
    if not panels:
        raise UserError(f"{folders[0]} has logged nothing to draw yet: a line comes every 20 steps")
    make_folder(out.parent)
    atomic_write(out, lambda file: _draw(runs, panels, file, format))
    return [field for field, _ in panels]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes are in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'siamese-zoo[train]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_png(figure: Figure, file: BinaryIO) -> None:
    """Write the figure as PNG without the library's version, so that equal figures give equal files."""
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})


def _draw(runs: dict[str, list[LogLine]], panels: list[tuple[str, str]], file: BinaryIO, format: str) -> None:
    rows, columns = -(-len(panels) // _COLUMNS), min(_COLUMNS, len(panels))
    figure = new_figure(4.2 * columns, 2.6 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (field, title) in zip(grid, panels, strict=False):
        _draw_panel(axes, runs, field, title)
    for axes in grid[len(panels) :]:
        axes.remove()
    if len(runs) > 1:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(runs)), fontsize=8)
    figure.savefig(file, format=format, dpi=110, metadata={_UNSTABLE[format]: None})


def _draw_panel(axes: Axes, runs: dict[str, list[LogLine]], field: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    # Draw one curve for each run.
    for number, (name, lines) in enumerate(runs.items()):
        steps, values = metrics_log.curve(lines, field, most=_POINTS)
        style = "o-" if len(steps) < 30 else "-"
        axes.plot(steps, values, style, color=f"C{number % 10}", label=name, markersize=3, linewidth=1.2)
        # Mark the steps where the monitor warned of a collapse.
        if field in ("spread", "effective_rank"):
            for line in lines:
                if "collapse" in line and isinstance(line["step"], int):
                    axes.axvline(line["step"], color=f"C{number % 10}", linestyle=":", linewidth=1)
    # Style the axes for a small panel.
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if field == "spread":
        axes.set_ylim(bottom=0)
