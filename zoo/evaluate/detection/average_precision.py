"""Average precision of boxes and masks, by COCO's rules and by VOC's; point scores and a bootstrap over pictures.

COCO's point scores are faster-coco-eval's. It does not say which detection matched, so the interval needs matching and
accumulation of our own: the tests hold them against pycocotools to the last digit. VOC has neither in a library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo.evaluate.detection.annotations import Instance, Scene, Scenes, run_lengths

THRESHOLDS = tuple(float(v) for v in np.linspace(0.5, 0.95, 10))  # COCO's, of IoU
_PER_PICTURE = 100  # detections counted at most (COCO)
_ROUNDS = 200
_Judged: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # hit and dropped, [thresholds, detections]


@dataclass(frozen=True)
class Found:
    """Detections in one picture: boxes x0, y0, x1, y1 [N, 4], scores [N], labels [N] from 0, masks as run lengths."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: Sequence[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Matches:
    """Of one class over all pictures.

    Attributes:
        picture: of each detection, its row in the split.
        score: of each detection.
        hit, dropped: bool [thresholds, detections]; a dropped one is neither right nor wrong.
        positives: objects to be found, by picture.
    """

    picture: NDArray[np.int64]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    dropped: NDArray[np.bool_]
    positives: NDArray[np.int64]


def coco_scores(split: Scenes, found: Sequence[Found], kind: str) -> dict[str, float]:
    """AP, AP50, AP75 in percent; ``kind`` is ``bbox`` or ``segm``. Zero where nothing was detected."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth, detections = to_coco(split, found, kind)
    if not detections:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    gt = COCO(truth)
    run = COCOeval_faster(gt, gt.loadRes(detections), kind)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {name: 100 * max(0.0, float(value)) for name, value in zip(("AP", "AP50", "AP75"), run.stats, strict=False)}


def to_coco(split: Scenes, found: Sequence[Found], kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and detections in COCO's dicts. Ids are counted from 1: pycocotools takes an object 0 for none."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for row, (scene, seen) in enumerate(zip(split.scenes, found, strict=True), start=1):
        images.append({"id": row, "width": scene.width, "height": scene.height})
        for i in scene.instances:
            annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": row, "category_id": i.label + 1}
            annotation |= {"bbox": _xywh(i.box), "area": i.area, "iscrowd": int(i.ignored)}
            if kind == "segm":
                annotation["segmentation"] = run_lengths(i.outline, scene.height, scene.width)
            annotations.append(annotation)
        for n in range(len(seen.scores)):
            one: dict[str, Any] = {"image_id": row, "category_id": int(seen.labels[n]) + 1}
            one["score"] = float(seen.scores[n])
            if kind == "segm":
                assert seen.masks is not None
                one["segmentation"] = seen.masks[n]
            else:
                one["bbox"] = _xywh(seen.boxes[n])
            detections.append(one)
    categories = [{"id": n, "name": name} for n, name in enumerate(split.classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}, detections


def matches(split: Scenes, found: Sequence[Found], kind: str) -> list[Matches]:
    """One per class, by the split's rules."""
    parts: list[list[tuple[int, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]]]
    parts = [[] for _ in split.classes]
    positives = np.zeros((len(split.classes), len(split)), np.int64)
    match = _match_voc if split.metric.startswith("voc") else _match_coco
    for row, (scene, seen) in enumerate(zip(split.scenes, found, strict=True)):
        for i in scene.instances:
            positives[i.label, row] += not i.ignored
        for label in np.unique(seen.labels):
            order = np.flatnonzero(seen.labels == label)
            order = order[np.argsort(-seen.scores[order], kind="mergesort")]
            if split.metric == "coco":
                order = order[:_PER_PICTURE]
            truth = [i for i in scene.instances if i.label == label]
            ignored = np.array([i.ignored for i in truth], bool)
            crowds = ignored if split.metric == "coco" else np.zeros_like(ignored)
            hit, dropped = match(_overlaps(scene, seen, order, truth, crowds, kind), ignored)
            parts[label].append((row, seen.scores[order], hit, dropped))
    return [_joined(of_class, positives[label]) for label, of_class in enumerate(parts)]


def average_precisions(
    found: Sequence[Matches], metric: str, weights: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Percent, [classes, thresholds], NaN for a class without objects.

    Args:
        metric: ``coco`` (101 points), ``voc07`` (11 points) or ``voc`` (area under the envelope, VOC from 2010).
        weights: how often each picture counts.
    """
    out = np.full((len(found), len(THRESHOLDS)), np.nan)
    for label, of_class in enumerate(found):
        weight = np.ones(len(of_class.positives), np.int64) if weights is None else weights
        total = int((of_class.positives * weight).sum())
        if not total:
            continue
        order = np.argsort(-of_class.score, kind="mergesort")
        counts = weight[of_class.picture[order]].astype(np.float64)
        for t in range(len(THRESHOLDS)):
            hit, kept = of_class.hit[t, order], ~of_class.dropped[t, order]
            right, wrong = np.cumsum(counts * (hit & kept)), np.cumsum(counts * (~hit & kept))
            recall, precision = right / total, right / np.maximum(right + wrong, np.finfo(np.float64).eps)
            out[label, t] = 100 * _area(recall, precision, metric)
    return out


def summary(table: NDArray[np.float64]) -> dict[str, float]:
    """AP, AP50, AP75 from ``average_precisions``: means over classes that have objects."""
    if np.isnan(table).all():
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    by_threshold = np.nanmean(table, axis=0)
    return {"AP": float(by_threshold.mean()), "AP50": float(by_threshold[0]), "AP75": float(by_threshold[5])}


def interval(found: Sequence[Matches], metric: str, name: str, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of ``summary``'s ``name`` over pictures drawn again with replacement."""
    pictures = len(found[0].positives)
    rng = np.random.Generator(np.random.Philox(key=seed))
    scores = []
    for _ in range(_ROUNDS):
        weights = np.bincount(rng.integers(0, pictures, pictures), minlength=pictures)
        scores.append(summary(average_precisions(found, metric, weights))[name])
    low, high = np.percentile(scores, (2.5, 97.5))
    return float(low), float(high)


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64], metric: str) -> float:
    if not len(recall):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "voc":
        steps = np.diff(recall, prepend=0.0)
        return float((steps * envelope).sum())
    points = np.linspace(0, 1, 11 if metric == "voc07" else 101)
    at = np.searchsorted(recall, points, side="left")
    return float(np.append(envelope, 0.0)[at].mean())


def _match_coco(overlap: NDArray[np.float64], ignored: NDArray[np.bool_]) -> _Judged:
    """Best detections first; each takes the free object it overlaps most, an ignored one only if no other will do."""
    detections, objects = overlap.shape
    hit, dropped = (np.zeros((len(THRESHOLDS), detections), bool) for _ in range(2))
    order = np.argsort(ignored, kind="mergesort")
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(objects, bool)
        for d in range(detections):
            best, most = -1, min(threshold, 1 - 1e-10)
            for g in order:
                if taken[g] and not ignored[g]:
                    continue
                if best >= 0 and not ignored[best] and ignored[g]:
                    break
                if overlap[d, g] >= most:
                    best, most = int(g), overlap[d, g]
            if best >= 0:
                taken[best] = True
                hit[t, d], dropped[t, d] = True, ignored[best]
    return hit, dropped


def _match_voc(overlap: NDArray[np.float64], ignored: NDArray[np.bool_]) -> _Judged:
    """VOC's devkit: each detection is judged by the object it overlaps most, even if that one is taken already."""
    detections, objects = overlap.shape
    hit, dropped = (np.zeros((len(THRESHOLDS), detections), bool) for _ in range(2))
    if not objects:
        return hit, dropped
    nearest = overlap.argmax(1)
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(objects, bool)
        for d, g in enumerate(nearest):
            if overlap[d, g] > threshold:
                if ignored[g]:
                    dropped[t, d] = True
                elif not taken[g]:
                    taken[g] = hit[t, d] = True
    return hit, dropped


def _overlaps(
    scene: Scene,
    seen: Found,
    order: NDArray[np.int64],
    truth: Sequence[Instance],
    crowds: NDArray[np.bool_],
    kind: str,
) -> NDArray[np.float64]:
    """IoU [detections, objects]; with a crowd it is the share of the detection that lies in it (COCO)."""
    from faster_coco_eval.core import mask as rle

    if not len(truth) or not len(order):
        return np.zeros((len(order), len(truth)))
    crowd = [int(c) for c in crowds]
    if kind == "segm":
        assert seen.masks is not None
        detected: Any = [seen.masks[d] for d in order]
        objects: Any = [run_lengths(i.outline, scene.height, scene.width) for i in truth]
    else:
        detected = np.array([_xywh(seen.boxes[d]) for d in order], np.float64)
        objects = np.array([_xywh(i.box) for i in truth], np.float64)
    return np.asarray(rle.iou(detected, objects, crowd), np.float64).reshape(len(order), len(truth))


def _joined(
    parts: Sequence[tuple[int, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]],
    positives: NDArray[np.int64],
) -> Matches:
    none = np.zeros((len(THRESHOLDS), 0), bool)
    return Matches(
        np.concatenate([np.full(len(score), row) for row, score, _, _ in parts] or [np.zeros(0, np.int64)]),
        np.concatenate([score for _, score, _, _ in parts] or [np.zeros(0)]),
        np.concatenate([hit for _, _, hit, _ in parts] or [none], axis=1),
        np.concatenate([dropped for _, _, _, dropped in parts] or [none], axis=1),
        positives,
    )


def _xywh(box: Any) -> list[float]:
    x0, y0, x1, y1 = (float(v) for v in box)
    return [x0, y0, x1 - x0, y1 - y0]
