"""Train a detector on a data set's images, and detect in others: what one trial of ``detect`` does."""

from __future__ import annotations

from contextlib import closing
from functools import partial

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
from zoo.evaluate.dense.finetune import SgdConfig, batch_rows, prefetch_batches, require_finite, run_sgd, seeded
from zoo.evaluate.dense.schedules import DetectionSchedule
from zoo.evaluate.detection.annotations import DetectionDataset, DetectionImage
from zoo.evaluate.detection.average_precision import Detections
from zoo.evaluate.detection.rcnn import RCNN
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

Sample = tuple[Tensor, dict[str, Tensor]]  # a training image and its targets


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
    """Return the detections in each image, in its own pixels; sets eval mode.

    Raises:
        Diverged: weights, features or scores are not finite. NaN is above no threshold, so that it would look like
            images without objects.
    """
    network.eval()
    for value in network.state_dict().values():
        require_finite(value, "weights")
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
