"""The table of protocols: name -> the module whose ``evaluate(context)`` runs it. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

PROTOCOLS: Mapping[str, str] = {
    "knn": "zoo.evaluate.frozen.knn",
    "linear": "zoo.evaluate.frozen.linear",
    "linear-sgd": "zoo.evaluate.frozen.linear_sgd",
    "linear-lars": "zoo.evaluate.frozen.linear_sgd",
    "linear-moco": "zoo.evaluate.frozen.linear_sgd",
    "semi-supervised": "zoo.evaluate.finetune.semi_supervised",
    "transfer": "zoo.evaluate.finetune.transfer",
    "detect": "zoo.evaluate.detection.detection",
    "segment": "zoo.evaluate.segmentation.segmentation",
    "depth": "zoo.evaluate.depth.depth",
}

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "linear": ("scipy", "threadpoolctl"),
    "semi-supervised": ("scipy",),
    "detect": ("faster_coco_eval", "scipy"),
    "segment": ("scipy",),
    "depth": ("scipy",),
}
"""Packages of the extra ``eval`` that a protocol needs, whatever its data."""

WITH_SCHEDULE = frozenset(("detect", "segment", "depth"))
"""Protocols that train a dense head by a schedule of ``zoo.evaluate.dense.schedules``."""
