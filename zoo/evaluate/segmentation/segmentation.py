"""``segment``: a dilated FCN on the encoder, all layers fine-tuned, scored by mean IoU ([B] app. D.4).

[B] is the BYOL paper (arXiv 2006.07733), which follows the appendix of MoCo (arXiv 1911.05722) and has no published
code for it. Each constant stands with its source in ``zoo.evaluate.dense.schedules``.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.evaluate.dense.augment import AnnotatedImages, to_tensor
from zoo.evaluate.dense.backbone import dilate, out_channels, split_stages
from zoo.evaluate.dense.finetune import batch_rows, recent_loss, require_finite, run_sgd
from zoo.evaluate.dense.schedules import SEGMENTATION, SegmentationSchedule, find_schedule
from zoo.evaluate.dense.sweep import RunScore, choose_learning_rate, score_over_runs, sgd_config
from zoo.evaluate.result import Result, bootstrap_interval, data_summary
from zoo.evaluate.segmentation.data import (
    IGNORE_INDEX,
    count_classes,
    learning_rate_splits,
    load_sample,
    open_segmentation_data,
    random_crop,
)
from zoo.evaluate.segmentation.iou import confusion, iou_by_class, mean_iou
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.evaluate.context import Context


def evaluate(context: Context) -> Result:
    """Choose the learning rate, train ``schedule.seeds`` networks with it, and score them on the test split.

    Raises:
        UserError: data or options cannot be used, or no learning rate converged.
    """
    schedule = context.options(find_schedule(SEGMENTATION, context.schedule, "byol"))
    splits = open_segmentation_data(context.data, schedule)
    classes = count_classes(splits, schedule.void)
    hashes = {name: images.sha256() for name, images in splits.items()}
    preprocessing, device = context.embedder.preprocessing, context.embedder.engine.device

    def run(train: AnnotatedImages, test: AnnotatedImages, lr: float, seed: int) -> RunScore:
        """Train and score one network, or take over what an earlier run finished."""
        cached = context.cached_part(asdict(schedule), hashes, len(train), test.name, len(test), lr, seed)
        if (stored := cached.read()) is not None:
            return RunScore(**stored)
        key = [context.embedder.identity(), asdict(schedule), hashes, len(train), lr, seed]
        # The new layers start from the seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = copy.deepcopy(context.embedder.model)
            network = FCN(encoder, classes, width=schedule.width, dilation=schedule.dilation).to(device)
        # Train, then score the test images.
        losses = train_network(network, train, schedule, preprocessing, lr=lr, seed=seed, key=key, device=device)
        matrices = predict_all(network, test, schedule, preprocessing, classes, device)
        score = RunScore(mean_iou(matrices), recent_loss(losses), matrices.tolist())
        cached.write(asdict(score))
        return score

    def validation_score(lr: float) -> float:
        train, val, _ = learning_rate_splits(splits, context.seed)
        return run(train, val, lr, context.seed).score

    # Choose the learning rate, then train each seed with it.
    lr, tried = choose_learning_rate(schedule.lrs, validation_score)
    chosen_on = learning_rate_splits(splits, context.seed)[2] if tried else "not chosen: the protocol has one"
    runs = [run(splits["train"], splits["test"], lr, context.seed + n) for n in range(schedule.seeds)]
    matrices = np.array([r.detail for r in runs], np.int64)  # [seeds, N, C, C]
    score, interval, method = score_over_runs(
        [r.score for r in runs], len(splits["test"]), lambda: bootstrap_interval(matrices[0], mean_iou)
    )
    # The class scores pool the pixels of all seeds.
    total = matrices.sum((0, 1))
    return Result(
        metric="mIoU",
        score=score,
        interval_95=interval,
        interval=method,
        parameters={
            "schedule": context.schedule or "byol",
            **asdict(schedule),
            "lr": lr,
            "validation_mIoU_by_lr": tried,
            "lr_chosen_on": chosen_on,
        },
        data=data_summary(context.data, classes, **{n: (len(s), hashes[n]) for n, s in splits.items()})
        | {"name": "VOC2012" if splits["train"].name.startswith("VOC2012/") else context.data.name},
        metrics={
            "pixel_accuracy": 100 * float(np.diagonal(total).sum() / total.sum()),
            "loss": float(np.mean([r.loss for r in runs])),
        },
        details={
            "scores": [round(r.score, 2) for r in runs],
            "iou_by_class": [None if np.isnan(v) else round(float(v), 2) for v in iou_by_class(total)],
        },
    )


class FCN(nn.Module):
    """Float [N, 3, H, W], normalised -> logits [N, classes, H, W].

    The last stage keeps the stride of the third by dilation; two 3x3 convolutions with BN and ReLU, a 1x1 classifier
    and bilinear upsampling follow.

    Args:
        encoder: used in place.
        width, dilation: channels and dilation of the 3x3 convolutions.
    """

    def __init__(self, encoder: nn.Module, classes: int, *, width: int, dilation: int) -> None:
        super().__init__()
        stem, stages = split_stages(encoder)
        # The last stage keeps its resolution.
        dilate(stages[-1])
        self.backbone = nn.Sequential(stem, *stages)
        channels: int = out_channels(stages[-1])
        modules: list[nn.Module] = []
        # Two convolutions lead to the classifier.
        for _ in range(2):
            modules += [
                nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.head = nn.Sequential(*modules, nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.head(self.backbone(x)), x.shape[-2:], mode="bilinear", align_corners=False)


def train_network(
    network: FCN,
    images: AnnotatedImages,
    schedule: SegmentationSchedule,
    preprocessing: Preprocessing,
    *,
    lr: float,
    seed: int,
    key: object,
    device: str,
) -> list[float]:
    """Train in place and return the losses.

    Raises:
        Diverged: a loss is not finite.
    """

    def make_batch(step: int) -> tuple[Tensor, Tensor]:
        crops, planes = [], []
        for epoch, row in batch_rows(seed, step, schedule.batch_size, len(images)):
            image, labels = load_sample(images, row, schedule)
            image, labels, (width, height) = random_crop(image, labels, schedule, seed, epoch, row)
            pixels = to_tensor(image, preprocessing)
            pixels[:, height:] = 0  # the mean colour
            pixels[:, :, width:] = 0
            crops.append(pixels)
            planes.append(torch.from_numpy(labels))
        return torch.stack(crops), torch.stack(planes)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        crops, planes = batch
        if not bool((planes != IGNORE_INDEX).any()):  # the mean over no pixel is NaN: nothing is learned here
            nothing: Tensor = network(crops.to(device)).sum() * 0
            return nothing
        return F.cross_entropy(network(crops.to(device)), planes.to(device), ignore_index=IGNORE_INDEX)

    return run_sgd(network, sgd_config(schedule, lr), make_batch, loss, seed=seed, key=key, device=device)


@torch.no_grad()
def predict_all(
    network: FCN,
    images: AnnotatedImages,
    schedule: SegmentationSchedule,
    preprocessing: Preprocessing,
    classes: int,
    device: str,
) -> NDArray[np.int64]:
    """Return confusion matrices [N, C, C] of whole images in the size of their labels; sets eval mode.

    Raises:
        Diverged: the network's answers are not finite.
    """
    network.eval()
    matrices = np.zeros((len(images), classes, classes), np.int64)
    with Progress("test images") as progress:
        progress.start(len(images))
        for row in range(len(images)):
            image, labels = load_sample(images, row, schedule)
            logits = network(to_tensor(image, preprocessing)[None].to(device))
            require_finite(logits, f"labels of {images.images[row]}")
            logits = F.interpolate(logits, labels.shape, mode="bilinear", align_corners=False)
            matrices[row] = confusion(labels, logits[0].argmax(0).cpu().numpy(), classes, IGNORE_INDEX)
            progress.advance(1)
    return matrices
