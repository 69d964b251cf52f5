"""Figures of ablations, from the JSON that ``training.ablations.run`` writes and from nothing else."""

from __future__ import annotations

from typing import Any, BinaryIO

from zoo.errors import UserError


def draw(result: dict[str, Any], file: BinaryIO) -> None:
    """PNG: measured means with intervals beside the published numbers; for the stop-gradient, curves."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'siamese-zoo[train]'") from None
    rows = result["rows"]
    if result["ablation"] == "stop-gradient":
        figure = Figure(figsize=(10, 3), layout="constrained")
        _curves(figure, rows)
    elif rows[0]["method"]:
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        _lines(figure, result)
    else:
        figure = Figure(figsize=(9, 0.45 * len(rows) + 1.4), layout="constrained")
        _bars(figure, result)
    figure.suptitle(f"{result['title']} ({result['setting']} setting, {result['seeds']} seeds)")
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})


def _errors(rows: list[dict[str, Any]]) -> list[list[float]] | None:
    """Below and above the means, for matplotlib."""
    if any(row["interval"] is None for row in rows):
        return None
    return [[row["mean"] - row["interval"][0] for row in rows], [row["interval"][1] - row["mean"] for row in rows]]


def _bars(figure: Any, result: dict[str, Any]) -> None:
    rows = result["rows"]
    measured, published = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))[::-1]
    measured.barh(places, [row["mean"] for row in rows], xerr=_errors(rows), color="tab:blue", capsize=3)
    measured.set_yticks(places, [row["label"] for row in rows])
    measured.set_xlabel(f"measured, {result['score']} %")
    published.barh(places, [row["published"] for row in rows], color="tab:gray")
    published.set_xlabel(f"published, linear % ({result['source']})")


def _lines(figure: Any, result: dict[str, Any]) -> None:
    measured, published = figure.subplots(1, 2)
    for method, colour in (("BYOL", "tab:blue"), ("SimCLR", "tab:orange")):
        rows = [row for row in result["rows"] if row["method"] == method]
        places, means = range(len(rows)), [row["mean"] for row in rows]
        measured.errorbar(places, means, yerr=_errors(rows), fmt="o-", capsize=3, color=colour, label=method)
        published.plot(places, [row["published"] for row in rows], "o-", color=colour, label=method)
        for axes in (measured, published):
            axes.set_xticks(places, [r["label"] for r in rows], rotation=30, ha="right", rotation_mode="anchor")
    measured.set_ylabel(f"measured, {result['score']} %")
    published.set_ylabel("published, linear %")
    measured.legend()


def _curves(figure: Any, rows: list[dict[str, Any]]) -> None:
    """Loss, std of z/|z| times sqrt(d), and kNN by step; a line for each seed ([S] figure 2)."""
    panels = figure.subplots(1, 3)
    titles = (("loss", "loss"), ("spread", "std of z/|z|, 1 = 1/sqrt(d)"), ("knn", "kNN on training images, %"))
    for axes, (key, title) in zip(panels, titles, strict=True):
        for row, colour in zip(rows, ("tab:blue", "tab:red"), strict=True):
            axes.plot([], [], color=colour, label=row["label"])  # one entry of the legend for all seeds
            for cell in row["cells"]:
                axes.plot(*zip(*cell["curves"][key], strict=True), color=colour)
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=9)
    panels[0].legend(fontsize=7)
