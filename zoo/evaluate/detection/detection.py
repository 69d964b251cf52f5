"""``detect``: Faster or Mask R-CNN on the encoder, scored by average precision of boxes and masks.

It is MoCo's protocol, which [S] table 5 uses (SimSiam, arXiv 2011.10566), or [B] app. D.5's frozen network (BYOL, arXiv
2006.07733). The constants are those of facebookresearch/moco ``detection/configs`` over Detectron2's defaults; see
``zoo.evaluate.dense.schedules``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from zoo.errors import UserError
from zoo.evaluate.dense.augment import (
    FLIP_STREAM,
    SIZE_STREAM,
    draw_uniforms,
    read_image,
    resized_size,
    scaled_size,
    to_tensor,
)
from zoo.evaluate.dense.backbone import update_bn_stats
from zoo.evaluate.dense.finetune import SgdConfig, batch_rows, prefetch_batches, recent_loss, run_sgd, seeded
from zoo.evaluate.dense.schedules import DETECTION, DetectionSchedule, find_schedule, stored_options
from zoo.evaluate.dense.sweep import choose_learning_rate, score_over_runs
from zoo.evaluate.detection.annotations import (
    DetectionDataset,
    DetectionImage,
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
from zoo.evaluate.result import Result, data_summary
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

Sample = tuple[Tensor, dict[str, Tensor]]  # a training image and its targets


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


def train_network(
    network: RCNN,
    dataset: DetectionDataset,
    schedule: DetectionSchedule,
    preprocessing: Preprocessing,
    *,
    seed: int,
    key: object,
    device: str,
) -> list[float]:
    """Train in place, recompute the batch statistics if the schedule asks for it, and return the losses.

    Raises:
        Diverged: a loss is not finite.
    """
    masks = network.heads.has_mask()

    # A batch is a function of the seed and the step.
    def make_batch(step: int) -> list[Sample]:
        rows = batch_rows(seed, step, schedule.batch_size, len(dataset))
        return [
            load_sample(dataset.images[row], schedule, preprocessing, seed, epoch, row, masks) for epoch, row in rows
        ]

    def loss(batch: list[Sample]) -> Tensor:
        targets = [{k: v.to(device) for k, v in target.items()} for _, target in batch]
        _, losses = network([image.to(device) for image, _ in batch], targets)
        return torch.stack(list(losses.values())).sum()

    config = SgdConfig(
        schedule.iterations,
        schedule.lr,
        schedule.momentum,
        schedule.weight_decay,
        schedule.drops,
        schedule.warmup,
        schedule.decay_norms,
    )
    losses = run_sgd(network, config, make_batch, loss, seed=seed, key=key, device=device)

    # batch statistics of the final weights, over the batches that follow
    steps = range(schedule.iterations, schedule.iterations + schedule.precise)
    with closing(prefetch_batches(make_batch, steps)) as batches:

        def forward(n: int) -> None:
            with seeded(seed, steps[n], device):
                loss(next(batches))

        update_bn_stats(network, forward, schedule.precise)
    return losses


def load_sample(
    image: DetectionImage,
    schedule: DetectionSchedule,
    preprocessing: Preprocessing,
    seed: int,
    epoch: int,
    row: int,
    masks: bool,
) -> Sample:
    """Return a training image, randomly resized and flipped, and its targets in the pixels of the resized image."""
    # Each random choice has its own stream of numbers.
    draw = partial(draw_uniforms, seed, epoch=epoch, row=row, count=1)
    side = schedule.sizes[int(draw(SIZE_STREAM)[0] * len(schedule.sizes))]
    pixels = _read(image)
    size = training_size(pixels.size, side, schedule)
    # The boxes follow the size of the image.
    scale = np.array([size[0] / image.width, size[1] / image.height] * 2)
    boxes = np.array([i.box for i in image.instances], np.float64).reshape(-1, 4) * scale
    planes = image.masks() if masks else None
    pixels = pixels.resize(size, Image.Resampling.BILINEAR)
    # Masks must stay binary, so they are not interpolated.
    if planes is not None:
        planes = np.stack([np.array(Image.fromarray(p).resize(size, Image.Resampling.NEAREST)) for p in planes])
    # A flip mirrors pixels, boxes and masks alike.
    if draw(FLIP_STREAM)[0] < schedule.flip:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.stack([size[0] - boxes[:, 2], boxes[:, 1], size[0] - boxes[:, 0], boxes[:, 3]], axis=1)
        planes = None if planes is None else np.ascontiguousarray(planes[:, :, ::-1])
    # Label 0 is the background in torchvision.
    target = {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.tensor([i.label + 1 for i in image.instances], dtype=torch.int64),
    }
    if planes is not None:
        target["masks"] = torch.from_numpy(planes)
    return to_tensor(pixels, preprocessing), target


def training_size(size: tuple[int, int], side: int, schedule: DetectionSchedule) -> tuple[int, int]:
    """Return (width, height) with ``side`` as the edge that the schedule names, within its ``max_size``."""
    if schedule.edge == "long":
        return scaled_size(size, side / max(size))
    return resized_size(size, side, schedule.max_size)


@torch.no_grad()
def detect_all(
    network: RCNN, dataset: DetectionDataset, schedule: DetectionSchedule, preprocessing: Preprocessing, device: str
) -> list[Detections]:
    """Return the detections in each image, in its own pixels; sets eval mode."""
    network.eval()
    found = []
    with Progress("test images") as progress:
        progress.start(len(dataset))
        for image in dataset.images:
            pixels = _read(image)
            size = training_size(pixels.size, schedule.test_size, schedule)
            x = to_tensor(pixels.resize(size, Image.Resampling.BILINEAR), preprocessing)
            found.append(_in_own_pixels(network([x.to(device)])[0][0], size, image))
            progress.advance(1)
    return found


def _in_own_pixels(output: dict[str, Tensor], size: tuple[int, int], image: DetectionImage) -> Detections:
    """Return the network's output for an image of ``size`` (width, height) in the pixels of the original."""
    from faster_coco_eval.core import mask as rle

    # Scale the boxes back to the original image.
    scale = torch.tensor([image.width / size[0], image.height / size[1]] * 2, device=output["boxes"].device)
    boxes = output["boxes"] * scale
    masks = None
    # The network gives small masks, which are pasted into their boxes.
    if "masks" in output:
        planes = paste_masks_in_image(output["masks"], boxes, (image.height, image.width))[:, 0] > 0.5
        masks = [rle.encode(np.asfortranarray(p)) for p in planes.cpu().numpy().astype(np.uint8)]
    return Detections(
        boxes.cpu().numpy().astype(np.float64),
        output["scores"].cpu().numpy().astype(np.float64),
        output["labels"].cpu().numpy() - 1,
        masks,
    )


def _read(image: DetectionImage) -> Image.Image:
    pixels = read_image(image.path)
    if pixels.size != (image.width, image.height):
        raise UserError(
            f"{image.path} is {pixels.width} x {pixels.height}, its annotation says {image.width} x {image.height}: "
            "correct the annotation"
        )
    return pixels


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
