"""One evaluation: model, data, protocol -> one JSON."""

from __future__ import annotations

import json
import time
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.api import load
from zoo.datasets import evaluation_splits
from zoo.evaluate import knn, linear
from zoo.evaluate.features import features
from zoo.files import atomic_write_text, make_folder


def evaluate(
    protocol: str, model: str, data: Path, *, out: Path | None = None, device: str | None = None
) -> dict[str, Any]:
    """Scores ``model`` by ``protocol`` (``knn`` or ``linear``) on the splits of ``data``.

    Args:
        model: as ``zoo.load``'s name; ``NAME.random`` is that architecture with random weights.
        data: see ``zoo.datasets.evaluation_splits``.
        out: the JSON is written there too, atomically.

    Raises:
        UserError: model or data cannot be used.
    """
    embedder = load(model, device=device)
    started = time.perf_counter()
    train, test = evaluation_splits(data)
    hashes = {"train": train.sha256(), "test": test.sha256()}
    bank = features(embedder, train, hashes["train"])
    queries = features(embedder, test, hashes["test"])
    predictions, parameters = _predict(protocol, bank, train.required_labels, queries)
    correct = predictions == test.required_labels
    result = {
        "protocol": protocol,
        "metric": "top-1",
        "score": round(float(correct.mean()) * 100, 2),
        "interval_95": _wilson(int(correct.sum()), len(correct)),
        "parameters": parameters,
        "data": {
            "name": data.name,
            "train": {"images": len(train), "sha256": hashes["train"]},
            "test": {"images": len(test), "sha256": hashes["test"]},
            "classes": len(train.classes),
        },
        "model": {"name": embedder.about["model"], **embedder.identity()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    if out is not None:
        make_folder(out.parent)
        atomic_write_text(out, json.dumps(result, indent=1) + "\n")
    return result


def _predict(
    protocol: str, bank: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.float32]
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    if protocol == "knn":
        import torch

        found = knn.predict(torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries))
        return found.numpy(), {"k": knn.K, "temperature": knn.TEMPERATURE}
    fit = linear.fit_predict(bank, labels, queries)
    chosen = {"l2": fit.chosen, "held_out_accuracy_by_l2": fit.tried}
    return fit.predictions, chosen | {"iterations": linear.ITERATIONS, "tolerance": linear.TOLERANCE}


def _wilson(correct: int, total: int) -> list[float]:
    """95 % interval of a proportion, in percent (Wilson 1927)."""
    z, p = 1.96, correct / total
    centre, half = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return [round(100 * (centre + sign * half) / (1 + z * z / total), 2) for sign in (-1, 1)]
