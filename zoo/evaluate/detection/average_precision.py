"""Average precision of boxes and masks by the rules of COCO and VOC, and its bootstrap over images.

COCO's scores are faster-coco-eval's. The intervals are computed here: one matching and 200 weighted rounds over 500
images take .35 s, 200 runs of faster-coco-eval 11 s for the same interval (one core; a slow test compares both). So are
VOC's scores, which no library has. The tests hold both against pycocotools and the devkit's definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo.evaluate.detection.annotations import Box, DetectionDataset, DetectionImage, Instance, RunLengths

THRESHOLDS = tuple(float(v) for v in np.linspace(0.5, 0.95, 10))  # of IoU (COCO)
_PER_IMAGE = 100  # detections counted at most (COCO)
_ROUNDS = 200

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Detections:
    """Detections in one image.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
        scores: [N].
        labels: int64 [N], counted from 0.
        masks: N masks in compressed run lengths, ``None`` without masks.
    """

    boxes: Floats
    scores: Floats
    labels: Ints
    masks: Sequence[RunLengths] | None = None


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in all images, matched with the objects at each of T thresholds.

    Attributes:
        image: int64 [N], the image of each detection.
        score: [N].
        matched: bool [T, N], the detection takes an object.
        ignored: bool [T, N], the detection counts neither as right nor as wrong.
        objects: int64 [images], number of objects to be found.
    """

    image: Ints
    score: Floats
    matched: Bools
    ignored: Bools
    objects: Ints


def coco_scores(dataset: DetectionDataset, detections: Sequence[Detections], iou_type: str) -> dict[str, float]:
    """Return AP, AP50 and AP75 in percent by faster-coco-eval, zero where nothing was detected.

    Args:
        iou_type: ``bbox`` or ``segm``.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth, found = to_coco(dataset, detections, iou_type)
    if not found:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    ground_truth = COCO(truth)
    run = COCOeval_faster(ground_truth, ground_truth.loadRes(found), iou_type)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {name: 100 * max(0.0, float(value)) for name, value in zip(("AP", "AP50", "AP75"), run.stats, strict=False)}


def to_coco(
    dataset: DetectionDataset, detections: Sequence[Detections], iou_type: str
) -> tuple[dict[str, list[dict[str, object]] | dict[str, object]], list[dict[str, object]]]:
    """Return ground truth and detections as COCO json. Ids count from 1: pycocotools takes an object 0 for none."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for row, (image, detected) in enumerate(zip(dataset.images, detections, strict=True), start=1):
        images.append({"id": row, "width": image.width, "height": image.height})
        # List the true objects of this image.
        for i in image.instances:
            annotation: dict[str, object] = {"id": len(annotations) + 1, "image_id": row, "category_id": i.label + 1}
            annotation |= {"bbox": _xywh(i.box), "area": i.area, "iscrowd": int(i.ignored)}
            if iou_type == "segm":
                annotation["segmentation"] = image.run_lengths(i)
            annotations.append(annotation)
        # List its detections, each with the mask or the box that is scored.
        for n in range(len(detected.scores)):
            one: dict[str, object] = {"image_id": row, "category_id": int(detected.labels[n]) + 1}
            one["score"] = float(detected.scores[n])
            if iou_type == "segm":
                assert detected.masks is not None
                one["segmentation"] = detected.masks[n]
            else:
                one["bbox"] = _xywh(detected.boxes[n])
            found.append(one)
    categories: list[dict[str, object]] = [{"id": n, "name": name} for n, name in enumerate(dataset.classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}, found


def match_detections(dataset: DetectionDataset, detections: Sequence[Detections], iou_type: str) -> list[ClassMatches]:
    """Match detections with objects by the rules of ``dataset.metric``; one result per class."""
    coco = dataset.metric == "coco"
    match = _match_coco if coco else _match_voc
    objects = np.zeros((len(dataset.classes), len(dataset)), np.int64)
    parts: list[list[tuple[int, Floats, Bools, Bools]]] = [[] for _ in dataset.classes]
    # Match one image and one class at a time.
    for row, (image, detected) in enumerate(zip(dataset.images, detections, strict=True)):
        # The objects that count decide the recall.
        for i in image.instances:
            objects[i.label, row] += not i.ignored
        for label in np.unique(detected.labels):
            # the detections of this class in this image, best first
            order = np.flatnonzero(detected.labels == label)
            order = order[np.argsort(-detected.scores[order], kind="mergesort")]
            if coco:
                order = order[:_PER_IMAGE]
            # Compare them with the true objects of the same class.
            truth = [i for i in image.instances if i.label == label]
            ignored = np.array([i.ignored for i in truth], bool)
            crowds = ignored if coco else np.zeros_like(ignored)
            iou = _iou(image, detected, order, truth, crowds, iou_type)
            parts[label].append((row, detected.scores[order], *match(iou, ignored)))

    # Join the images of each class into one list.
    none = np.zeros((len(THRESHOLDS), 0), bool)
    return [
        ClassMatches(
            np.concatenate([np.full(len(score), row) for row, score, _, _ in of_class] or [np.zeros(0, np.int64)]),
            np.concatenate([score for _, score, _, _ in of_class] or [np.zeros(0)]),
            np.concatenate([matched for _, _, matched, _ in of_class] or [none], axis=1),
            np.concatenate([ignored for _, _, _, ignored in of_class] or [none], axis=1),
            objects[label],
        )
        for label, of_class in enumerate(parts)
    ]


def average_precisions(matches: Sequence[ClassMatches], metric: str, weights: Ints | None = None) -> Floats:
    """Return average precision in percent, [classes, thresholds], NaN for a class without objects.

    Args:
        metric: ``coco`` (101 points), ``voc07`` (11 points) or ``voc`` (area under the envelope, VOC from 2010).
        weights: [images], how often each image counts; ``None`` counts each once.
    """
    table = np.full((len(matches), len(THRESHOLDS)), np.nan)
    for label, of_class in enumerate(matches):
        # A bootstrap sample counts an image several times.
        weight = np.ones(len(of_class.objects), np.int64) if weights is None else weights
        total = int((of_class.objects * weight).sum())
        if not total:
            continue
        # Walk down the detections, the surest first.
        order = np.argsort(-of_class.score, kind="mergesort")
        counts = weight[of_class.image[order]].astype(np.float64)
        for t in range(len(THRESHOLDS)):
            matched, counted = of_class.matched[t, order], ~of_class.ignored[t, order]
            right, wrong = np.cumsum(counts * (matched & counted)), np.cumsum(counts * (~matched & counted))
            # The curve of precision over recall gives the area.
            recall, precision = right / total, right / np.maximum(right + wrong, np.finfo(np.float64).eps)
            table[label, t] = 100 * _area(recall, precision, metric)
    return table


def summarize(table: Floats) -> dict[str, float]:
    """Return AP, AP50 and AP75 from ``average_precisions``: means over the classes that have objects."""
    if np.isnan(table).all():
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    by_threshold = np.nanmean(table, axis=0)
    return {"AP": float(by_threshold.mean()), "AP50": float(by_threshold[0]), "AP75": float(by_threshold[5])}


def precision_interval(matches: Sequence[ClassMatches], metric: str, name: str, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of ``summarize``'s ``name`` over images drawn again with replacement."""
    images = len(matches[0].objects)
    rng = np.random.Generator(np.random.Philox(key=seed))
    scores = []
    for _ in range(_ROUNDS):
        weights = np.bincount(rng.integers(0, images, images), minlength=images)
        scores.append(summarize(average_precisions(matches, metric, weights))[name])
    low, high = np.percentile(scores, (2.5, 97.5))
    return float(low), float(high)


def _area(recall: Floats, precision: Floats, metric: str) -> float:
    """Return the area under a precision-recall curve, 0 to 1."""
    if not len(recall):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "voc":
        steps = np.diff(recall, prepend=0.0)
        return float((steps * envelope).sum())
    points = np.linspace(0, 1, 11 if metric == "voc07" else 101)
    at = np.searchsorted(recall, points, side="left")
    return float(np.append(envelope, 0.0)[at].mean())


def _match_coco(iou: Floats, ignored: Bools) -> tuple[Bools, Bools]:
    """Match by COCO's rule, from ``iou`` [N, objects]: return matched and ignored detections, [T, N] each.

    Each detection, best first, takes the free object it overlaps most, and an ignored object only if no other will do.
    """
    detections, objects = iou.shape
    matched, dropped = (np.zeros((len(THRESHOLDS), detections), bool) for _ in range(2))
    # Objects that count come before ignored ones.
    order = np.argsort(ignored, kind="mergesort")
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(objects, bool)
        for d in range(detections):
            best, most = -1, min(threshold, 1 - 1e-10)
            # Find the free object with the most overlap.
            for g in order:
                if taken[g] and not ignored[g]:
                    continue
                if best >= 0 and not ignored[best] and ignored[g]:
                    break
                if iou[d, g] >= most:
                    best, most = int(g), iou[d, g]
            # A match with an ignored object is neither right nor wrong.
            if best >= 0:
                taken[best] = True
                matched[t, d], dropped[t, d] = True, ignored[best]
    return matched, dropped


def _match_voc(iou: Floats, ignored: Bools) -> tuple[Bools, Bools]:
    """Match by the rule of VOC's devkit; arguments and result as ``_match_coco``.

    Each detection is judged by the object it overlaps most, even if that one is taken already.
    """
    detections, objects = iou.shape
    matched, dropped = (np.zeros((len(THRESHOLDS), detections), bool) for _ in range(2))
    if not objects:
        return matched, dropped
    # VOC looks at the closest object alone, even if it is taken.
    closest = iou.argmax(1)
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(objects, bool)
        for d, g in enumerate(closest):
            if iou[d, g] > threshold:
                if ignored[g]:
                    dropped[t, d] = True
                elif not taken[g]:
                    taken[g] = matched[t, d] = True
    return matched, dropped


def _iou(
    image: DetectionImage,
    detected: Detections,
    order: Ints,
    truth: Sequence[Instance],
    crowds: Bools,
    iou_type: str,
) -> Floats:
    """Return IoU [detections, objects]; with a crowd it is the share of the detection that lies in it (COCO)."""
    from faster_coco_eval.core import mask as rle

    if not len(truth) or not len(order):
        return np.zeros((len(order), len(truth)))
    is_crowd = [int(c) for c in crowds]
    # Overlap is measured between masks or between boxes.
    if iou_type == "segm":
        assert detected.masks is not None
        iou = rle.iou([detected.masks[d] for d in order], [image.run_lengths(i) for i in truth], is_crowd)
    else:
        boxes = np.array([_xywh(detected.boxes[d]) for d in order], np.float64)
        iou = rle.iou(boxes, np.array([_xywh(i.box) for i in truth], np.float64), is_crowd)
    return np.asarray(iou, np.float64).reshape(len(order), len(truth))


def _xywh(box: Box | Floats) -> list[float]:
    x0, y0, x1, y1 = (float(v) for v in box)
    return [x0, y0, x1 - x0, y1 - y0]
