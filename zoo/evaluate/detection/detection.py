"""``detect``: Faster or Mask R-CNN on the encoder, scored by average precision of boxes and masks.

It is MoCo's protocol, which [S] table 5 uses (SimSiam, arXiv 2011.10566), or [B] app. D.5's frozen network (BYOL, arXiv
2006.07733). The constants are those of facebookresearch/moco ``detection/configs`` over Detectron2's defaults; see
``zoo.evaluate.dense.schedules``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch

from zoo.errors import UserError
from zoo.evaluate.dense.finetune import recent_loss
from zoo.evaluate.dense.schedules import DETECTION, DetectionSchedule, find_schedule, stored_options
from zoo.evaluate.dense.sweep import choose_learning_rate, score_over_runs
from zoo.evaluate.detection.annotations import (
    DetectionDataset,
    RunLengths,
    find_voc_devkit,
    open_detection_data,
)
from zoo.evaluate.detection.average_precision import (
    Detections,
    average_precisions,
    coco_scores,
    match_detections,
    precision_interval,
    summarize,
)
from zoo.evaluate.detection.rcnn import RCNN
from zoo.evaluate.detection.training import detect_all, train_network
from zoo.evaluate.result import Result, data_summary

if TYPE_CHECKING:
    from zoo.evaluate.context import Context


def evaluate(context: Context) -> Result:
    """Train on the training split, and score boxes and masks on the test split.

    The default schedule is ``voc0712-24k`` for a VOC devkit and ``coco-1x`` for COCO json.

    Raises:
        UserError: data or options cannot be used, a metric's library is missing, or the training diverged.
    """
    # Check the metric's package before hours of training.
    _require_metric()
    default = "coco-1x" if find_voc_devkit(context.data) is None else "voc0712-24k"
    name = context.schedule or default
    schedule = context.options(find_schedule(DETECTION, name, default))
    # Masks are scored only if both splits have them.
    train, test = open_detection_data(context.data, schedule.years)
    masks = schedule.masks and train.has_masks and test.has_masks
    train = train.for_training(masks=masks)
    hashes = {"train": train.sha256, "test": test.sha256}

    # Choose the learning rate, then train each trial with it.
    images = {"train": train, "test": test}
    lr, tried = _choose_learning_rate(context, schedule, train, masks)
    schedule = replace(schedule, lr=lr)
    states = [_train_and_detect(context, schedule, images, masks, context.seed + n) for n in range(schedule.trials)]

    # score boxes, and masks where there are any
    headline = "AP50" if test.metric.startswith("voc") else "AP"
    found = [[_from_json(one) for one in state["found"]] for state in states]
    by_trial = [_score(test, detections, masks) for detections in found]
    metrics = {name: float(np.mean([trial[name] for trial in by_trial])) for name in by_trial[0]}
    scores = [trial[f"box {headline}"] for trial in by_trial]
    # The interval comes from the trials, or from resampled images of a single one.
    matches = match_detections(test, found[0], "bbox")
    score, interval, method = score_over_runs(
        scores, len(test), lambda: precision_interval(matches, test.metric, headline)
    )
    by_class = np.mean([average_precisions(match_detections(test, f, "bbox"), test.metric)[:, 0] for f in found], 0)
    sizes = {"train": (len(train), hashes["train"]), "test": (len(test), hashes["test"])}
    return Result(
        metric=f"box {headline}",
        score=score,
        interval_95=interval,
        interval=method,
        parameters={
            "schedule": name,
            **stored_options(schedule),
            "masks": masks,
            "rule": test.metric,
            "chosen_by": "a tenth of the training images, held out; then all of them, once a trial"
            if tried
            else "given",
            "held_out_score_by_lr": tried,
        },
        data=data_summary(context.data, len(test.classes), **sizes) | {"name": _published_name(context.data, train)},
        metrics={
            **metrics,
            "loss of the first steps": float(np.mean([state["first_loss"] for state in states])),
            "loss": float(np.mean([state["loss"] for state in states])),
        },
        details={
            "skipped": {"train": dict(train.skipped), "test": dict(test.skipped)},
            "trials": {
                "scores": [round(v, 2) for v in scores],
                "mean": round(float(np.mean(scores)), 2),
                "std": round(float(np.std(scores, ddof=1)), 2) if len(scores) > 1 else None,
            },
            "AP50_by_class": {
                c: None if np.isnan(ap) else round(float(ap), 2) for c, ap in zip(test.classes, by_class, strict=True)
            },
        },
    )


class _TrialJson(TypedDict):
    """The finished part of one trial: losses, and the detections in each test image."""

    loss: float
    first_loss: float
    found: list[_DetectionsJson]


def _choose_learning_rate(
    context: Context, schedule: DetectionSchedule, train: DetectionDataset, masks: bool
) -> tuple[float, dict[str, object]]:
    """Return the learning rate of the schedule, or the best of ``lrs`` on a tenth of the training images."""
    lrs = schedule.lrs or (schedule.lr,)
    if len(lrs) == 1:
        return lrs[0], {}
    if len(train) < 2:
        raise UserError(f"{train.name} has one image, none can be held out to choose by: give one value for lrs")
    # Hold out a tenth of the images at random.
    order = np.random.Generator(np.random.Philox(key=context.seed)).permutation(len(train))
    count = max(1, len(train) // 10)
    images = {
        "train": train.subset(sorted(order[count:].tolist())),
        "test": train.subset(sorted(order[:count].tolist())),
    }

    # Each rate trains a network from the same seed.
    def score(lr: float) -> float:
        state = _train_and_detect(context, replace(schedule, lr=lr), images, masks, context.seed)
        held = images["test"]
        headline = "AP50" if held.metric.startswith("voc") else "AP"
        return _score(held, [_from_json(one) for one in state["found"]], masks)[f"box {headline}"]

    return choose_learning_rate(lrs, score)


def _train_and_detect(
    context: Context, schedule: DetectionSchedule, images: Mapping[str, DetectionDataset], masks: bool, seed: int
) -> _TrialJson:
    """Train one network on ``images["train"]`` and detect in ``images["test"]``, or take over an earlier run's part."""
    train, test = images["train"], images["test"]
    # The key holds all that changes the result of this one trial.
    one = {name: value for name, value in stored_options(schedule).items() if name not in ("lrs", "trials")}
    key = [context.embedder.identity(), one, {"train": train.sha256, "test": test.sha256}, masks, seed]
    cached = context.cached_part(*key[1:])
    state: _TrialJson | None = cached.read()
    if state is not None:
        return state
    # The new layers start from the seed alone.
    preprocessing, device = context.embedder.preprocessing, context.embedder.engine.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = copy.deepcopy(context.embedder.model)
        network = RCNN(encoder, len(train.classes), schedule, masks=masks).to(device)
    # Train, detect, and keep the outcome for a later run.
    losses = train_network(network, train, schedule, preprocessing, seed=seed, key=key, device=device)
    found = detect_all(network, test, schedule, preprocessing, device)
    state = {
        "loss": recent_loss(losses),
        "first_loss": recent_loss(losses[:20]),
        "found": [_to_json(one) for one in found],
    }
    cached.write(state)
    return state


def _score(images: DetectionDataset, detections: list[Detections], masks: bool) -> dict[str, float]:
    """Return AP, AP50 and AP75 of boxes, and of masks where there are any."""
    metrics: dict[str, float] = {}
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")) if masks else (("box", "bbox"),):
        if images.metric == "coco":
            scores = coco_scores(images, detections, iou_type)
        else:
            scores = summarize(average_precisions(match_detections(images, detections, iou_type), images.metric))
        metrics |= {f"{kind} {k}": v for k, v in scores.items()}
    return metrics


def _published_name(data: Path, train: DetectionDataset) -> str:
    """Return the name of the data set in published tables, else the name of the folder."""
    if train.metric == "coco":
        return "COCO 2017" if train.name.endswith("/instances_train2017") else data.name
    return "VOC07+12" if "VOC2012" in train.name else "VOC07"


class _DetectionsJson(TypedDict):
    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    masks: Sequence[RunLengths] | None


def _to_json(detections: Detections) -> _DetectionsJson:
    masks = None
    if detections.masks is not None:
        masks = [RunLengths(size=list(m["size"]), counts=_as_text(m["counts"])) for m in detections.masks]
    return {
        "boxes": detections.boxes.tolist(),
        "scores": detections.scores.tolist(),
        "labels": detections.labels.tolist(),
        "masks": masks,
    }


def _from_json(value: _DetectionsJson) -> Detections:
    return Detections(
        np.array(value["boxes"], np.float64).reshape(-1, 4),
        np.array(value["scores"], np.float64),
        np.array(value["labels"], np.int64),
        value["masks"],
    )


def _as_text(counts: str | bytes | list[int]) -> str | list[int]:
    return counts.decode() if isinstance(counts, bytes) else counts


def _require_metric() -> None:
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        raise UserError("detection needs faster-coco-eval: pip install 'siamese-zoo[eval]'") from None
