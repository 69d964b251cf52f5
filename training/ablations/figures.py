"""Figures of ablations, drawn only from the JSON that ``training.ablations.run`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from training.ablations.result import AblationResult, RowResult
from training.results.plot import new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(result: AblationResult, file: BinaryIO) -> None:
    """Write a PNG: measured means with intervals beside the published numbers; for the stop-gradient, curves.

    Raises:
        UserError: matplotlib is not installed.
    """
    # Choose the plot that fits what this ablation compares.
    rows = result["rows"]
    if result["ablation"] == "stop-gradient":
        figure = new_figure(10, 3)
        _curves(figure, rows)
    elif rows[0]["method"]:
        figure = new_figure(9, 3.4)
        _lines(figure, result)
    else:
        figure = new_figure(9, 0.45 * len(rows) + 1.4)
        _bars(figure, result)
    figure.suptitle(f"{result['title']} ({result['setting']} setting, {result['seeds']} seeds)")
    save_png(figure, file)


def _error_bars(rows: list[RowResult]) -> list[list[float]] | None:
    """Return the intervals' lengths below and above the means, as matplotlib takes them."""
    bounds = [(row["mean"] - row["interval"][0], row["interval"][1] - row["mean"]) for row in rows if row["interval"]]
    if len(bounds) < len(rows):
        return None
    return [[low for low, _ in bounds], [high for _, high in bounds]]


def _bars(figure: Figure, result: AblationResult) -> None:
    rows = result["rows"]
    measured, published = figure.subplots(1, 2, sharey=True)
    positions = range(len(rows))[::-1]
    measured.barh(positions, [row["mean"] for row in rows], xerr=_error_bars(rows), color="tab:blue", capsize=3)
    measured.set_yticks(positions, [row["label"] for row in rows])
    measured.set_xlabel(f"measured, {result['score']} %")
    published.barh(positions, [row["published"] for row in rows], color="tab:gray")
    published.set_xlabel(f"published, linear % ({result['source']})")


def _lines(figure: Figure, result: AblationResult) -> None:
    measured, published = figure.subplots(1, 2)
    for method, colour in (("BYOL", "tab:blue"), ("SimCLR", "tab:orange")):
        rows = [row for row in result["rows"] if row["method"] == method]
        positions, means = range(len(rows)), [row["mean"] for row in rows]
        measured.errorbar(positions, means, yerr=_error_bars(rows), fmt="o-", capsize=3, color=colour, label=method)
        published.plot(positions, [row["published"] for row in rows], "o-", color=colour, label=method)
        for axes in (measured, published):
            axes.set_xticks(positions, [r["label"] for r in rows], rotation=30, ha="right", rotation_mode="anchor")
    measured.set_ylabel(f"measured, {result['score']} %")
    published.set_ylabel("published, linear %")
    measured.legend()


def _curves(figure: Figure, rows: list[RowResult]) -> None:
    """Draw loss, std of z/|z| times sqrt(d), and kNN by step; one line per seed ([S] figure 2)."""
    panels = figure.subplots(1, 3)
    titles = (
        ("loss", "loss"),
        ("spread", "std of z/|z| times sqrt(d): 1 is spread out"),
        ("knn", "kNN on training images, %"),
    )
    for axes, (key, title) in zip(panels, titles, strict=True):
        for row, colour in zip(rows, ("tab:blue", "tab:red"), strict=True):
            axes.plot([], [], color=colour, label=row["label"])  # one legend entry for all seeds
            for cell in row["cells"]:
                axes.plot(*zip(*cell["curves"][key], strict=True), color=colour)
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=9)
    panels[0].legend(fontsize=7)
