"""The classes that a classifier gets wrong most often, and the classes it takes them for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORST, TAKEN_FOR = 10, 3  # number of classes, and of wrong answers listed for each


def worst_classes(predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: list[str]) -> dict[str, object]:
    """Return ``{"worst_classes": [...]}`` for ``Result.details``, the lowest accuracy first.

    An entry has ``class``, ``images`` (of the test split), ``accuracy`` in percent and ``taken_for``, the most frequent
    wrong answers as ``[class, images]``.
    """
    rows: list[tuple[float, dict[str, object]]] = []
    for label in np.unique(labels):
        answers = predictions[labels == label]
        wrong, counts = np.unique(answers[answers != label], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:TAKEN_FOR]
        accuracy = round(100 * float((answers == label).mean()), 2)
        row: dict[str, object] = {"class": classes[label], "images": len(answers), "accuracy": accuracy}
        rows.append((accuracy, row | {"taken_for": [[classes[wrong[i]], int(counts[i])] for i in most]}))
    return {"worst_classes": [row for _, row in sorted(rows, key=lambda entry: entry[0])[:WORST]]}
