"""Which classes a classifier gets wrong, and what it takes them for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WORST, TAKEN_FOR = 10, 3  # classes, and wrong answers to each


def worst_classes(predictions: NDArray[np.int64], truth: NDArray[np.int64], classes: list[str]) -> dict[str, Any]:
    """``{"worst_classes": [...]}`` for ``Result.details``, the worst first.

    Each has ``class``, ``images`` of the test split, ``accuracy`` in percent and ``taken_for``, the most frequent wrong
    answers as ``[class, images]``.
    """
    rows = []
    for label in np.unique(truth):
        answers = predictions[truth == label]
        names, counts = np.unique(answers[answers != label], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:TAKEN_FOR]
        rows.append(
            {
                "class": classes[label],
                "images": len(answers),
                "accuracy": round(100 * float((answers == label).mean()), 2),
                "taken_for": [[classes[names[i]], int(counts[i])] for i in most],
            }
        )
    return {"worst_classes": sorted(rows, key=lambda row: row["accuracy"])[:WORST]}
