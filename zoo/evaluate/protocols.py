"""The table of protocols: name -> the module whose ``evaluate(context)`` runs it. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

PROTOCOLS: Mapping[str, str] = {
    "knn": "zoo.evaluate.knn",
    "linear": "zoo.evaluate.linear",
    "linear-sgd": "zoo.evaluate.linear_heads",
    "linear-lars": "zoo.evaluate.linear_heads",
    "semi-supervised": "zoo.evaluate.semi_supervised",
    "transfer": "zoo.evaluate.transfer",
    "detect": "zoo.evaluate.dense.detection",
    "segment": "zoo.evaluate.dense.segmentation",
    "depth": "zoo.evaluate.dense.depth",
}
