"""``detect``: Faster or Mask R-CNN on the encoder, scored by average precision of boxes and masks.

It is MoCo's protocol, which [S] table 5 uses (SimSiam, arXiv 2011.10566), or [B] app. D.5's frozen network (BYOL, arXiv
2006.07733). The constants are those of facebookresearch/moco ``detection/configs`` over Detectron2's defaults; see
``zoo.evaluate.dense.schedules``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
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
from zoo.evaluate.dense.schedules import DETECTION, DetectionSchedule, find_schedule
from zoo.evaluate.dense.sweep import score_over_runs
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
    _require_metric()
    default = "coco-1x" if find_voc_devkit(context.data) is None else "voc0712-24k"
    name = context.schedule or default
    schedule = context.options(find_schedule(DETECTION, name, default))
    train, test = open_detection_data(context.data, schedule.years)
    masks = schedule.masks and train.has_masks and test.has_masks
    train = train.for_training(masks=masks)
    hashes = {"train": train.sha256, "test": test.sha256}

    # train and detect, or take over what an earlier run finished
    cached = context.cached_part(asdict(schedule), hashes, masks)
    if (state := cached.read()) is None:
        preprocessing, device = context.embedder.preprocessing, context.embedder.engine.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            encoder = copy.deepcopy(context.embedder.model)
            network = RCNN(encoder, len(train.classes), schedule, masks=masks).to(device)
        key = [context.embedder.identity(), asdict(schedule), hashes, masks, context.seed]
        losses = train_network(network, train, schedule, preprocessing, seed=context.seed, key=key, device=device)
        found = detect_all(network, test, schedule, preprocessing, device)
        state = {
            "loss": recent_loss(losses),
            "first_loss": recent_loss(losses[:20]),
            "found": [_to_json(one) for one in found],
        }
        cached.write(state)
    detections = [_from_json(one) for one in state["found"]]

    # score boxes, and masks where there are any
    headline = "AP50" if test.metric.startswith("voc") else "AP"
    box_matches = match_detections(test, detections, "bbox")
    by_class = average_precisions(box_matches, test.metric)
    metrics: dict[str, float] = {}
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")) if masks else (("box", "bbox"),):
        scores = coco_scores(test, detections, iou_type) if test.metric == "coco" else summarize(by_class)
        metrics |= {f"{kind} {k}": v for k, v in scores.items()}
    score, interval, method = score_over_runs(
        [metrics[f"box {headline}"]], len(test), lambda: precision_interval(box_matches, test.metric, headline)
    )
    sizes = {"train": (len(train), hashes["train"]), "test": (len(test), hashes["test"])}
    return Result(
        metric=f"box {headline}",
        score=score,
        interval_95=interval,
        interval=method,
        parameters={"schedule": name, **asdict(schedule), "masks": masks, "rule": test.metric},
        data=data_summary(context.data, len(test.classes), **sizes) | {"name": _published_name(context.data, train)},
        metrics={**metrics, "loss of the first steps": state["first_loss"], "loss": state["loss"]},
        details={
            "skipped": {"train": dict(train.skipped), "test": dict(test.skipped)},
            "AP50_by_class": {
                c: None if np.isnan(row[0]) else round(float(row[0]), 2)
                for c, row in zip(test.classes, by_class, strict=True)
            },
        },
    )


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
        schedule.iterations, schedule.lr, schedule.momentum, schedule.weight_decay, schedule.drops, schedule.warmup
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
    draw = partial(draw_uniforms, seed, epoch=epoch, row=row, count=1)
    side = schedule.sizes[int(draw(SIZE_STREAM)[0] * len(schedule.sizes))]
    pixels = _read(image)
    size = training_size(pixels.size, side, schedule)
    scale = np.array([size[0] / image.width, size[1] / image.height] * 2)
    boxes = np.array([i.box for i in image.instances], np.float64).reshape(-1, 4) * scale
    planes = image.masks() if masks else None
    pixels = pixels.resize(size, Image.Resampling.BILINEAR)
    if planes is not None:
        planes = np.stack([np.array(Image.fromarray(p).resize(size, Image.Resampling.NEAREST)) for p in planes])
    if draw(FLIP_STREAM)[0] < schedule.flip:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.stack([size[0] - boxes[:, 2], boxes[:, 1], size[0] - boxes[:, 0], boxes[:, 3]], axis=1)
        planes = None if planes is None else np.ascontiguousarray(planes[:, :, ::-1])
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

    scale = torch.tensor([image.width / size[0], image.height / size[1]] * 2, device=output["boxes"].device)
    boxes = output["boxes"] * scale
    masks = None
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
