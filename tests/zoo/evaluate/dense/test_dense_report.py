"""Where results of detection, segmentation and depth stand in the report."""

from __future__ import annotations

from typing import Any

from zoo.report import tables


def _comparable(table: str, column: str, result: dict[str, Any]) -> float | None:
    (found,) = (t for t in tables.published() if t["id"] == table)
    return tables._comparable(found, column, result)  # type: ignore[arg-type]


def result(name: str, schedule: str, protocol: str = "detect") -> dict[str, Any]:
    metrics = {"box AP50": 82.0, "mask AP": 33.0, "pct<1.25": 80.0}
    return {
        "protocol": protocol, "metric": "mIoU", "score": 76.0, "metrics": metrics, "data": {"name": name},
        "parameters": {"schedule": schedule}, "model": {"name": "byol_r50.deepmind_in1k"},
    }  # fmt: skip


def test_a_published_column_takes_only_the_published_protocol_and_data() -> None:
    table = "simsiam-detection"
    assert _comparable(table, "VOC07+12 AP50", result("VOC07+12", "voc0712-24k")) == 82.0
    assert _comparable(table, "VOC07 AP50", result("VOC07+12", "voc0712-24k")) is None
    assert _comparable(table, "COCO mask AP", result("COCO 2017", "coco-1x")) == 33.0
    assert _comparable(table, "COCO mask AP", result("coco-mini", "coco-1x")) is None
    assert _comparable(table, "VOC07+12 AP50", result("VOC07+12", "small")) is None
    assert _comparable("voc", "mIoU", result("VOC2012", "byol", "segment")) == 76.0
    assert _comparable("voc", "mIoU", result("VOC2012", "small", "segment")) is None
    assert _comparable("nyu-depth", "pct<1.25", result("NYUv2", "byol", "depth")) == 80.0
