"""Figures: accuracy by label fraction from results; neighbours, confusion and a map from the features of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from zoo.datasets.labelled import LabelledImages, open_splits
from zoo.evaluate.baselines import open_model
from zoo.evaluate.features import cached_features
from zoo.evaluate.frozen import knn
from zoo.evaluate.result import EvaluationJson
from zoo.report.embedding_map import write_map
from zoo.report.render import clipped, png_figure
from zoo.report.tables import is_random, model_name, published
from zoo.system.atomic_files import atomic_write

QUERIES, NEIGHBOURS = 10, 8  # rows and columns of the neighbour grid
CLASSES = 12  # of the confusion figure
_SIDE, _FRAME, _GAP = 96, 4, 6  # pixels
_RIGHT, _WRONG = "#1a7f37", "#cf222e"
_BASELINES = ("Supervised", "SimCLR", "BYOL")

Ints = NDArray[np.int64]


def draw_results(results: Sequence[EvaluationJson], out: Path) -> list[Path]:
    """Draw accuracy by label fraction for each data set with semi-supervised results; return the files."""
    semi_supervised = [r for r in results if r["protocol"] == "semi-supervised"]
    paths = []
    for data in dict.fromkeys(r["data"]["name"] for r in semi_supervised):
        path = out / f"label-fraction-{_file_stem(data)}.png"
        _draw_label_fractions([r for r in semi_supervised if r["data"]["name"] == data], data, path)
        paths.append(path)
    return paths


def draw_features(
    model: str, data: Path, out: Path, *, device: str | None = None, label_column: str | None = None
) -> list[Path]:
    """Classify the test images of ``data`` by kNN; draw neighbours, confusion and a map, and return the files.

    Raises:
        UserError: model or data cannot be used.
    """
    # Classify the test images by their nearest training images.
    embedder = open_model(model, device)
    splits = open_splits(data, label_column=label_column)
    train, test = splits.train, splits.test
    bank, queries = (cached_features(embedder, s, s.sha256) for s in (train, test))
    similarity, rows = knn.neighbours(bank, queries, min(knn.K, len(bank)))
    labels = torch.from_numpy(train.labels)[rows]
    answers = knn.vote(similarity, labels, len(train.classes), knn.TEMPERATURE).numpy()

    # The file names carry the model and the data.
    name = f"{embedder.weights_info['model']} on {data.stem}"
    stem = _file_stem(f"{embedder.weights_info['model']}-{data.stem}")
    grid, confusion, page = out / f"neighbours-{stem}.png", out / f"confusion-{stem}.png", out / f"map-{stem}.html"
    _draw_neighbours(train, test, rows.numpy(), similarity.numpy(), answers, grid)
    _draw_confusion(answers, test.labels, train.classes, f"{name}, kNN", confusion)
    write_map(queries, test.labels, answers, test, train.classes, page, title=name)
    return [grid, confusion, page]


def _draw_label_fractions(results: list[EvaluationJson], data: str, path: Path) -> None:
    with png_figure(path, 6.4, 4.4) as figure:
        axes = figure.subplots()
        # measured curves
        for result in sorted(results, key=is_random):
            fractions = sorted(result["details"]["fractions"], key=lambda f: f["percent"])
            x = [f["percent"] for f in fractions]
            means, spreads = [f["mean"] for f in fractions], [f["spread"] for f in fractions]
            style = "--" if is_random(result) else "-"
            axes.errorbar(
                x,
                means,
                spreads,
                fmt=f"o{style}",
                capsize=3,
                label=f"measured: {clipped(model_name(result))}, {clipped(data)}",
            )
        # published ones
        table = next(t for t in published() if t["id"] == "semi-supervised-r50")
        for row in table["rows"]:
            if row["method"] in _BASELINES:
                axes.plot((1, 10), row["values"][:2], ":", color="0.6", marker="s", markersize=4)
                end, name = (10, row["values"][1]), f"{row['method']} (published)"
                axes.annotate(name, end, (6, -3), textcoords="offset points", color="0.45", fontsize=8)
        # The axes show each fraction by its own tick.
        axes.set(xscale="log", xlabel="labels, % of the training images", ylabel="top-1, %", ylim=(0, None))
        ticks = sorted({f["percent"] for r in results for f in r["details"]["fractions"]} | {1, 10})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlim(min(ticks) * 0.8, max(ticks) * 2.6)
        axes.set_title(f"{clipped(data)}; dotted: published, ResNet-50 on ImageNet, other data", fontsize=9)
        figure.legend(fontsize=8, loc="outside lower center")


def _draw_neighbours(
    train: LabelledImages,
    test: LabelledImages,
    rows: Ints,
    similarity: NDArray[np.float32],
    answers: Ints,
    path: Path,
) -> None:
    """Draw a row per query: the test image with its kNN answer, then its neighbours; frames show the right class."""
    # Every report shows the same random queries.
    chosen = np.sort(np.random.Generator(np.random.Philox(key=0)).permutation(len(test))[:QUERIES])
    count = min(NEIGHBOURS, rows.shape[1])
    step, line = _SIDE + 2 * _FRAME + _GAP, _SIDE + 2 * _FRAME + 18
    sheet = Image.new("RGB", (step * (count + 1) + 2 * _GAP + 8, line * len(chosen) + 28), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 6), "test image, answer", fill="black")
    pen.text((step + 3 * _GAP, 6), "nearest training images: green the same class, red another", fill="black")
    labels, truth = train.labels, test.labels
    for y, query in enumerate(chosen):
        # The query stands at the left with its answer.
        top = 24 + y * line
        right = bool(answers[query] == truth[query])
        answer = f"{test.classes[truth[query]]}: {'right' if right else 'taken for ' + train.classes[answers[query]]}"
        _draw_tile(sheet, pen, test.image(int(query)), 4, top, right, answer)
        # Its neighbours follow, the nearest first.
        for x in range(count):
            row = int(rows[query, x])
            caption = f"{similarity[query, x]:.2f} {train.classes[labels[row]]}"
            left = (x + 1) * step + 3 * _GAP
            _draw_tile(sheet, pen, train.image(row), left, top, bool(labels[row] == truth[query]), caption)
    atomic_write(path, lambda file: sheet.save(file, "PNG"))


def _draw_tile(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, image: Image.Image, left: int, top: int, right: bool, text: str
) -> None:
    pen.rectangle(
        (left, top, left + _SIDE + 2 * _FRAME - 1, top + _SIDE + 2 * _FRAME - 1), fill=_RIGHT if right else _WRONG
    )
    sheet.paste(ImageOps.fit(image, (_SIDE, _SIDE), Image.Resampling.LANCZOS), (left + _FRAME, top + _FRAME))
    pen.text((left + 1, top + _SIDE + 2 * _FRAME + 1), _shorten(pen, text), fill=_RIGHT if right else _WRONG)


def _shorten(pen: ImageDraw.ImageDraw, text: str) -> str:
    """Cut a text to the width of a tile."""
    while text and pen.textlength(text) > _SIDE + 2 * _FRAME + _GAP - 2:
        text = text[:-1]
    return text


def _draw_confusion(answers: Ints, truth: Ints, classes: list[str], title: str, path: Path) -> None:
    """Draw a row per class with the lowest accuracy, a column per row and per class they are most often taken for."""
    # rows and columns
    labels = np.unique(truth)
    accuracy = np.array([(answers[truth == label] == label).mean() for label in labels])
    worst = labels[np.argsort(accuracy, kind="stable")[:CLASSES]]
    counts = np.array([np.bincount(answers[truth == label], minlength=len(classes)) for label in worst])
    # Add the classes that the worst ones are mistaken for.
    taken = counts.copy()
    taken[np.arange(len(worst)), worst] = 0
    others = [c for c in np.argsort(-taken.sum(0), kind="stable") if c not in worst and taken[:, c].any()]
    columns = [*worst, *others[: max(0, CLASSES + 4 - len(worst))]]
    share = 100 * counts[:, columns] / counts.sum(1, keepdims=True)
    # Draw the shares, and write the visible ones into their cells.
    with png_figure(path, 2.5 + 0.55 * len(columns), 2.2 + 0.42 * len(worst)) as figure:
        axes = figure.subplots()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axes.set_xticks(range(len(columns)), [classes[c][:22] for c in columns], rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(worst)), [classes[c][:22] for c in worst], fontsize=8)
        for y, x in zip(*np.nonzero(share >= 0.5), strict=True):
            colour = "white" if share[y, x] > 55 else "black"
            axes.text(x, y, f"{share[y, x]:.0f}", ha="center", va="center", fontsize=7, color=colour)
        axes.set(xlabel="answer", ylabel="class")
        axes.set_title(f"{title}: the {len(worst)} worst classes, % of their test images", fontsize=9)
        figure.colorbar(image, shrink=0.8)


def _file_stem(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:80]
