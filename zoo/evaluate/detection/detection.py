"""``detect``: Faster or Mask R-CNN on the encoder, scored by average precision of boxes and masks.

MoCo's protocol, which SimSiam's table 5 uses, or BYOL's frozen network: see ``zoo.evaluate.dense.schedules``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from zoo.errors import UserError
from zoo.evaluate.dense.augment import FLIP_STREAM, SIZE_STREAM, draws, picture, scaled, short_side_to, tensor
from zoo.evaluate.dense.backbone import precise_statistics
from zoo.evaluate.dense.finetune import Sgd, batch_rows, recent, seeded, tune
from zoo.evaluate.dense.prefetch import Upcoming
from zoo.evaluate.dense.schedules import DETECTION, Detection, find
from zoo.evaluate.dense.sweep import summarise
from zoo.evaluate.detection.annotations import Scene, Scenes, devkit, splits, trainable
from zoo.evaluate.detection.average_precision import (
    Found,
    average_precisions,
    coco_scores,
    interval,
    matches,
    summary,
)
from zoo.evaluate.detection.rcnn import RCNN
from zoo.evaluate.result import Result, describe_data
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.evaluate.context import Context


def evaluate(context: Context) -> Result:
    """Trains on the training split and scores the test split.

    The default schedule is ``voc0712-24k`` for a VOC devkit and ``coco-1x`` for COCO json.

    Raises:
        UserError: data or options cannot be used, a metric's library is missing, or the training diverged.
    """
    _require_metric()
    default = "coco-1x" if devkit(context.data) is None else "voc0712-24k"
    name = context.schedule or default
    protocol = context.options(find(DETECTION, name, default))
    train, test = splits(context.data, protocol.years)
    masks = protocol.masks and train.has_masks and test.has_masks
    learned = trainable(train, masks=masks)
    hashes = {"train": learned.digest, "test": test.digest}
    cell = context.cell(asdict(protocol), hashes, masks)
    state = cell.read()
    if state is None:
        state = _train_and_detect(context, protocol, learned, test, masks, hashes)
        cell.write(state)
    found = [_from_json(one) for one in state["found"]]
    losses = {"loss of the first steps": state["first_loss"], "loss": state["loss"]}
    return _result(context, name, protocol, learned, test, masks, hashes, found, losses)


def train_network(
    network: RCNN,
    split: Scenes,
    protocol: Detection,
    preprocessing: Preprocessing,
    *,
    seed: int,
    key: object,
    device: str,
) -> list[float]:
    """Trains in place, then computes batch statistics again where the protocol wants it; the losses."""
    sgd = Sgd(
        protocol.iterations, protocol.lr, protocol.momentum, protocol.weight_decay, protocol.drops, protocol.warmup
    )
    masks = network.heads.has_mask()

    def make(step: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
        rows = batch_rows(seed, step, protocol.batch_size, len(split))
        return [sample(split.scenes[row], protocol, preprocessing, seed, epoch, row, masks) for epoch, row in rows]

    with Upcoming(make) as batches:

        def losses(step: int) -> dict[str, Tensor]:
            batch = batches(step)
            targets = [{k: v.to(device) for k, v in target.items()} for _, target in batch]
            found: dict[str, Tensor] = network([image.to(device) for image, _ in batch], targets)[1]
            return found

        done = tune(network, sgd, lambda step: sum_of(losses(step)), seed=seed, key=key, device=device)

        def run(n: int) -> None:
            with seeded(seed, protocol.iterations + n, device):
                losses(protocol.iterations + n)

        precise_statistics(network, run, protocol.precise)
    return done


def sum_of(losses: dict[str, Tensor]) -> Tensor:
    """The scalar that is minimised."""
    return torch.stack(list(losses.values())).sum()


def sample(
    scene: Scene, protocol: Detection, preprocessing: Preprocessing, seed: int, epoch: int, row: int, masks: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """A training picture, resized and flipped by its draws, and its targets in the picture's new pixels."""
    sizes = protocol.sizes
    side = sizes[int(draws(seed, SIZE_STREAM, epoch, row, 1)[0] * len(sizes))]
    image = _read(scene)
    size = resized(image.size, side, protocol)
    scale = np.array([size[0] / scene.width, size[1] / scene.height] * 2)
    boxes = np.array([i.box for i in scene.instances], np.float64).reshape(-1, 4) * scale
    planes = scene.masks(scene.instances) if masks else None
    image = image.resize(size, Image.Resampling.BILINEAR)
    if planes is not None:
        planes = np.stack([np.array(Image.fromarray(p).resize(size, Image.Resampling.NEAREST)) for p in planes])
    if draws(seed, FLIP_STREAM, epoch, row, 1)[0] < protocol.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.stack([size[0] - boxes[:, 2], boxes[:, 1], size[0] - boxes[:, 0], boxes[:, 3]], axis=1)
        planes = None if planes is None else np.ascontiguousarray(planes[:, :, ::-1])
    target = {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.tensor([i.label + 1 for i in scene.instances], dtype=torch.int64),
    }
    if planes is not None:
        target["masks"] = torch.from_numpy(planes)
    return tensor(image, preprocessing), target


def resized(size: tuple[int, int], side: int, protocol: Detection) -> tuple[int, int]:
    """(width, height) by the protocol's edge and ceiling."""
    if protocol.edge == "long":
        return scaled(size, side / max(size))
    return short_side_to(size, side, protocol.max_size)


@torch.no_grad()
def detect_all(
    network: RCNN, split: Scenes, protocol: Detection, preprocessing: Preprocessing, device: str
) -> list[Found]:
    """Detections in each picture, in its own pixels; sets ``network`` to eval mode."""
    network.eval()
    found = []
    with Progress("test images") as progress:
        progress.start(len(split))
        for scene in split.scenes:
            image = _read(scene)
            size = resized(image.size, protocol.test_size, protocol)
            pixels = tensor(image.resize(size, Image.Resampling.BILINEAR), preprocessing)
            found.append(_in_own_pixels(network([pixels.to(device)])[0][0], size, scene))
            progress.advance(1)
    return found


def _in_own_pixels(one: dict[str, Tensor], size: tuple[int, int], scene: Scene) -> Found:
    from faster_coco_eval.core import mask as rle

    scale = torch.tensor([scene.width / size[0], scene.height / size[1]] * 2, device=one["boxes"].device)
    boxes = one["boxes"] * scale
    masks = None
    if "masks" in one:
        planes = paste_masks_in_image(one["masks"], boxes, (scene.height, scene.width))[:, 0] > 0.5
        masks = [rle.encode(np.asfortranarray(p)) for p in planes.cpu().numpy().astype(np.uint8)]
    return Found(
        boxes.cpu().numpy().astype(np.float64),
        one["scores"].cpu().numpy().astype(np.float64),
        one["labels"].cpu().numpy() - 1,
        masks,
    )


def _train_and_detect(
    context: Context, protocol: Detection, train: Scenes, test: Scenes, masks: bool, hashes: dict[str, str]
) -> dict[str, Any]:
    preprocessing, device = context.embedder.preprocessing, context.embedder.engine.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        encoder = copy.deepcopy(context.embedder.model)
        network = RCNN(encoder, len(train.classes), protocol, masks=masks).to(device)
    key = [context.embedder.identity(), asdict(protocol), hashes, masks, context.seed]
    losses = train_network(network, train, protocol, preprocessing, seed=context.seed, key=key, device=device)
    found = detect_all(network, test, protocol, preprocessing, device)
    return {"loss": recent(losses), "first_loss": recent(losses[:20]), "found": [_to_json(one) for one in found]}


def _result(
    context: Context,
    name: str,
    protocol: Detection,
    train: Scenes,
    test: Scenes,
    masks: bool,
    hashes: dict[str, str],
    found: Sequence[Found],
    losses: dict[str, float],
) -> Result:
    headline = "AP50" if test.metric.startswith("voc") else "AP"
    metrics: dict[str, float] = {}
    of_boxes = matches(test, found, "bbox")
    for kind in ("bbox", "segm") if masks else ("bbox",):
        if test.metric == "coco":
            numbers = coco_scores(test, found, kind)
        else:
            numbers = summary(average_precisions(of_boxes, test.metric))
        metrics |= {f"{'box' if kind == 'bbox' else 'mask'} {k}": v for k, v in numbers.items()}
    score, bounds, how = summarise(
        [metrics[f"box {headline}"]], len(test), lambda: interval(of_boxes, test.metric, headline)
    )
    by_class = average_precisions(of_boxes, test.metric)
    return Result(
        metric=f"box {headline}",
        score=score,
        interval_95=bounds,
        interval=how,
        parameters={"schedule": name, **asdict(protocol), "masks": masks, "rule": test.metric},
        data={
            **describe_data(
                context.data, len(test.classes), train=(len(train), hashes["train"]), test=(len(test), hashes["test"])
            ),
            "name": data_name(context.data, train),
        },
        metrics={**metrics, **losses},
        details={
            "skipped": {"train": dict(train.skipped), "test": dict(test.skipped)},
            "AP50_by_class": {
                c: None if np.isnan(row[0]) else round(float(row[0]), 2)
                for c, row in zip(test.classes, by_class, strict=True)
            },
        },
    )


def data_name(data: Path, train: Scenes) -> str:
    """What published tables call it, or the folder's name."""
    if train.metric == "coco":
        return "COCO 2017" if train.name.endswith("/instances_train2017") else data.name
    return "VOC07+12" if "VOC2012" in train.name else "VOC07"


def _read(scene: Scene) -> Image.Image:
    image = picture(scene.path)
    if image.size != (scene.width, scene.height):
        raise UserError(
            f"{scene.path} is {image.width} x {image.height}, its annotation says {scene.width} x {scene.height}: "
            "correct the annotation"
        )
    return image


def _to_json(found: Found) -> dict[str, Any]:
    masks = None
    if found.masks is not None:
        masks = [{"size": list(m["size"]), "counts": _text(m["counts"])} for m in found.masks]
    return {
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
        "labels": found.labels.tolist(),
        "masks": masks,
    }


def _from_json(one: dict[str, Any]) -> Found:
    return Found(
        np.array(one["boxes"], np.float64).reshape(-1, 4),
        np.array(one["scores"], np.float64),
        np.array(one["labels"], np.int64),
        one["masks"],
    )


def _text(counts: str | bytes) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def _require_metric() -> None:
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        raise UserError("detection needs faster-coco-eval: pip install 'siamese-zoo[eval]'") from None
