"""Average precision against pycocotools, and VOC's against its definition written as loops."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from zoo.evaluate.detection.annotations import DetectionDataset, DetectionImage, Instance, compress_mask
from zoo.evaluate.detection.average_precision import (
    THRESHOLDS,
    Detections,
    average_precisions,
    coco_scores,
    match_detections,
    precision_interval,
    summarize,
    to_coco,
)

SIDE, CLASSES = 60, 3


def random_detections(seed: int, metric: str, count: int = 4) -> tuple[DetectionDataset, list[Detections]]:
    """Random rectangles, with detections that are copies moved by a few pixels, double ones and wrong ones."""
    rng = np.random.default_rng(seed)
    images, found = [], []
    for n in range(count):
        instances = []
        for _ in range(rng.integers(0, 5)):
            box = _box(rng)
            x0, y0, x1, y1 = box
            segmentation = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            area = (x1 - x0) * (y1 - y0)
            instances.append(Instance(box, int(rng.integers(CLASSES)), bool(rng.random() < 0.25), area, segmentation))
        boxes = [np.clip(np.array(i.box) + rng.integers(-4, 5, 4), 0, SIDE) for i in instances for _ in range(2)]
        labels = [i.label for i in instances for _ in range(2)]
        for _ in range(rng.integers(0, 3)):
            boxes.append(np.array(_box(rng)))
            labels.append(int(rng.integers(CLASSES)))
        kept = [k for k, b in enumerate(boxes) if b[2] > b[0] and b[3] > b[1]]
        array = np.array([boxes[k] for k in kept], np.float64).reshape(-1, 4)
        masks = [compress_mask([[b[0], b[1], b[2], b[1], b[2], b[3], b[0], b[3]]], SIDE, SIDE) for b in array.tolist()]
        scores = rng.permutation(len(kept)) / 100 + 0.01  # no ties
        found.append(Detections(array, scores, np.array([labels[k] for k in kept], np.int64), masks))
        images.append(DetectionImage(Path(f"{n}.jpg"), SIDE, SIDE, tuple(instances)))
    # ties between images would be ordered by the implementation
    total = sum(len(f.scores) for f in found)
    order = iter(rng.permutation(total) / (total + 1))
    found = [Detections(f.boxes, np.array([next(order) for _ in f.scores]), f.labels, f.masks) for f in found]
    return DetectionDataset("random", tuple("abc"), images, metric), found


def _box(rng: np.random.Generator) -> tuple[float, float, float, float]:
    x0, y0 = rng.integers(0, SIDE - 12, 2)
    width, height = rng.integers(6, 12, 2)
    return float(x0), float(y0), float(x0 + width), float(y0 + height)


def pycocotools_scores(split: DetectionDataset, found: list[Detections], kind: str) -> dict[str, float]:
    truth, detections = to_coco(split, found, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        for annotation in truth["annotations"]:
            if "segmentation" in annotation and isinstance(annotation["segmentation"]["counts"], str):
                annotation["segmentation"]["counts"] = annotation["segmentation"]["counts"].encode()
        run = COCOeval(gt, gt.loadRes(detections), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(("AP", "AP50", "AP75"), 100 * np.maximum(run.stats[:3], 0), strict=True))


@given(seed=st.integers(0, 100_000), kind=st.sampled_from(["bbox", "segm"]))
@settings(max_examples=25, deadline=None)
def test_both_implementations_are_pycocotools(seed: int, kind: str) -> None:
    split, found = random_detections(seed, "coco")
    if not sum(len(f.scores) for f in found) or not any(not i.ignored for s in split.images for i in s.instances):
        return
    reference = pycocotools_scores(split, found, kind)
    ours = summarize(average_precisions(match_detections(split, found, kind), "coco"))
    assert ours == pytest.approx(reference, abs=1e-9)
    assert coco_scores(split, found, kind) == pytest.approx(reference, abs=1e-6)


def voc_devkit(split: DetectionDataset, found: list[Detections], label: int, threshold: float, eleven: bool) -> float:
    """VOCevaldet.m in words: detections of all images by score, each judged by its best overlap."""
    rows = [(f.scores[k], n, f.boxes[k]) for n, f in enumerate(found) for k in np.flatnonzero(f.labels == label)]
    taken: set[tuple[int, int]] = set()
    right, wrong, points = 0, 0, []
    total = sum(not i.ignored for s in split.images for i in s.instances if i.label == label)
    for _, n, box in sorted(rows, key=lambda r: -r[0]):
        truth = [i for i in split.images[n].instances if i.label == label]
        overlaps = [_iou(box, i.box) for i in truth]
        if overlaps and max(overlaps) > threshold:
            best = int(np.argmax(overlaps))
            if not truth[best].ignored:
                right, wrong = (right, wrong + 1) if (n, best) in taken else (right + 1, wrong)
                taken.add((n, best))
        else:
            wrong += 1
        if right + wrong:
            points.append((right / total, right / (right + wrong)))
    if eleven:
        return 100 * sum(max((p for r, p in points if r >= t), default=0.0) for t in np.linspace(0, 1, 11)) / 11
    area, before = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[k:])
        before = recall
    return 100 * area


def _iou(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@given(seed=st.integers(0, 100_000), metric=st.sampled_from(["voc07", "voc"]))
@settings(max_examples=25, deadline=None)
def test_voc_is_its_devkit(seed: int, metric: str) -> None:
    split, found = random_detections(seed, metric)
    table = average_precisions(match_detections(split, found, "bbox"), metric)
    for label in range(CLASSES):
        if not any(i.label == label and not i.ignored for s in split.images for i in s.instances):
            assert np.isnan(table[label]).all()
            continue
        for t in (0, 5):
            expected = voc_devkit(split, found, label, THRESHOLDS[t], metric == "voc07")
            assert table[label, t] == pytest.approx(expected, abs=1e-9)


def test_perfect_detections_score_100_and_none_score_0() -> None:
    split, _ = random_detections(1, "coco")
    truth = [
        Detections(
            np.array([i.box for i in s.instances]).reshape(-1, 4),
            np.ones(len(s.instances)),
            np.array([i.label for i in s.instances], np.int64),
            [rle.encode(np.asfortranarray(m)) for m in s.masks()],
        )
        for s in split.images
    ]
    none = [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), []) for _ in split.images]
    for kind in ("bbox", "segm"):
        assert coco_scores(split, truth, kind)["AP"] == pytest.approx(100)
        assert coco_scores(split, none, kind) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
        assert summarize(average_precisions(match_detections(split, none, kind), "coco"))["AP"] == 0


def test_the_interval_counts_images_as_often_as_they_were_drawn() -> None:
    """Weights are the same as repeating the images."""
    split, found = random_detections(7, "coco")
    weights = np.array([2, 0, 1, 1])
    rows = np.repeat(np.arange(4), weights)
    repeated = DetectionDataset("r", split.classes, [split.images[r] for r in rows], "coco")
    expected = average_precisions(match_detections(repeated, [found[r] for r in rows], "bbox"), "coco")
    weighted = average_precisions(match_detections(split, found, "bbox"), "coco", weights)
    np.testing.assert_allclose(weighted, expected, atol=1e-9)
    low, high = precision_interval(match_detections(split, found, "bbox"), "coco", "AP")
    assert (
        0 <= low <= summarize(average_precisions(match_detections(split, found, "bbox"), "coco"))["AP"] <= high <= 100
    )
    assert precision_interval(match_detections(split, found, "bbox"), "coco", "AP") == (low, high)


@pytest.mark.slow
def test_the_interval_is_that_of_running_faster_coco_eval_again_and_takes_a_fraction_of_the_time() -> None:
    split, found = random_detections(0, "coco", 500)
    started = time.process_time()
    ours = precision_interval(match_detections(split, found, "bbox"), "coco", "AP")
    seconds, started = time.process_time() - started, time.process_time()
    rng = np.random.Generator(np.random.Philox(key=0))
    scores = []
    for _ in range(200):
        rows = rng.integers(0, 500, 500)
        drawn = DetectionDataset("drawn", split.classes, [split.images[r] for r in rows], "coco")
        scores.append(coco_scores(drawn, [found[r] for r in rows], "bbox")["AP"])
    theirs = time.process_time() - started
    print(f"{seconds:.2f} s, faster-coco-eval {theirs:.2f} s")
    assert ours == pytest.approx(tuple(np.percentile(scores, (2.5, 97.5))), abs=1e-6)
    assert seconds < theirs / 5
