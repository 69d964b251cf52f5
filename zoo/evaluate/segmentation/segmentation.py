"""``segment``: a dilated FCN on the encoder, all of it fine-tuned ([B] D.4), scored by mean IoU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.evaluate.dense.augment import Pairs, tensor
from zoo.evaluate.dense.backbone import channels, dilate, stages
from zoo.evaluate.dense.finetune import batch_rows, recent, tune
from zoo.evaluate.dense.prefetch import Upcoming
from zoo.evaluate.dense.schedules import SEGMENTATION, Segmentation, find
from zoo.evaluate.dense.sweep import Trained, best, sgd_of, summarise
from zoo.evaluate.result import Result, bootstrap, describe_data
from zoo.evaluate.segmentation import data as source
from zoo.evaluate.segmentation.iou import confusion, ious, mean_iou
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.evaluate.context import Context


class FCN(nn.Module):
    """Float [N, 3, H, W], normalised -> logits [N, classes, H, W].

    The last stage keeps the third one's stride by dilation; two 3x3 convolutions with BN and ReLU, a 1x1 classifier,
    bilinear upsampling. ``encoder`` is used in place.
    """

    def __init__(self, encoder: nn.Module, classes: int, *, width: int, dilation: int) -> None:
        super().__init__()
        stem, layers = stages(encoder)
        dilate(layers[-1])
        self.trunk = nn.Sequential(stem, *layers)
        depth, modules = channels(layers[-1]), []
        for _ in range(2):
            modules += [
                nn.Conv2d(depth, width, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            depth = width
        self.head = nn.Sequential(*modules, nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.head(self.trunk(x)), x.shape[-2:], mode="bilinear", align_corners=False)


def evaluate(context: Context) -> Result:
    """Chooses the learning rate, trains ``protocol.seeds`` networks with it, and scores them on the test split.

    Raises:
        UserError: data or options cannot be used, or no learning rate converged.
    """
    protocol = context.options(find(SEGMENTATION, context.schedule, "byol"))
    found = source.splits(context.data, protocol)
    classes = source.count_classes(found, protocol.void)
    hashes = {name: pairs.sha256() for name, pairs in found.items()}
    preprocessing, device = context.embedder.preprocessing, context.embedder.engine.device

    def run(train: Pairs, test: Pairs, lr: float, seed: int) -> Trained:
        cell = context.cell(asdict(protocol), hashes, len(train), test.name, len(test), lr, seed)
        if (kept := cell.read()) is not None:
            return Trained(**kept)
        key = [context.embedder.identity(), asdict(protocol), hashes, len(train), lr, seed]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = FCN(
                copy.deepcopy(context.embedder.model), classes, width=protocol.width, dilation=protocol.dilation
            ).to(device)
        losses = train_network(network, train, protocol, preprocessing, lr=lr, seed=seed, key=key, device=device)
        matrices = predict_all(network, test, protocol, preprocessing, classes, device)
        trained = Trained(mean_iou(matrices), recent(losses), matrices.tolist())
        cell.write(asdict(trained))
        return trained

    lr, tried, chosen_on = best(
        protocol.lrs,
        lambda value: run(*source.choosing(found, context.seed)[:2], value, context.seed).score,
        lambda: source.choosing(found, context.seed)[2],
    )
    runs = [run(found["train"], found["test"], lr, context.seed + n) for n in range(protocol.seeds)]
    matrices = np.array([r.detail for r in runs], np.int64)
    return _result(context, protocol, found, hashes, classes, runs, matrices, (lr, tried, chosen_on))


def train_network(
    network: FCN,
    pairs: Pairs,
    protocol: Segmentation,
    preprocessing: Preprocessing,
    *,
    lr: float,
    seed: int,
    key: object,
    device: str,
) -> list[float]:
    """Trains in place; the losses. Raises Diverged."""

    with Upcoming(lambda step: _batch(pairs, protocol, preprocessing, seed, step)) as batches:

        def loss(step: int) -> Tensor:
            images, labels = batches(step)
            return F.cross_entropy(network(images.to(device)), labels.to(device), ignore_index=source.NEVER)

        return tune(network, sgd_of(protocol, lr), loss, seed=seed, key=key, device=device)


@torch.no_grad()
def predict_all(
    network: FCN, pairs: Pairs, protocol: Segmentation, preprocessing: Preprocessing, classes: int, device: str
) -> NDArray[np.int64]:
    """Confusion matrices [N, C, C] of whole pictures at the labels' own size; sets ``network`` to eval mode."""
    network.eval()
    matrices = np.zeros((len(pairs), classes, classes), np.int64)
    with Progress("test images") as progress:
        progress.start(len(pairs))
        for row in range(len(pairs)):
            image, labels = source.sample(pairs, row, protocol)
            logits = network(tensor(image, preprocessing)[None].to(device))
            logits = F.interpolate(logits, labels.shape, mode="bilinear", align_corners=False)
            matrices[row] = confusion(labels, logits[0].argmax(0).cpu().numpy(), classes, source.NEVER)
            progress.advance(1)
    return matrices


def _batch(
    pairs: Pairs, protocol: Segmentation, preprocessing: Preprocessing, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for epoch, row in batch_rows(seed, step, protocol.batch_size, len(pairs)):
        image, plane, (width, height) = source.crop(*source.sample(pairs, row, protocol), protocol, seed, epoch, row)
        pixels = tensor(image, preprocessing)
        pixels[:, height:] = 0  # the mean colour
        pixels[:, :, width:] = 0
        images.append(pixels)
        labels.append(torch.from_numpy(plane))
    return torch.stack(images), torch.stack(labels)


def _result(
    context: Context,
    protocol: Segmentation,
    found: dict[str, Pairs],
    hashes: dict[str, str],
    classes: int,
    runs: Sequence[Trained],
    matrices: NDArray[np.int64],
    choice: tuple[float, dict[str, Any], str],
) -> Result:
    """``matrices`` [seeds, N, C, C]."""
    scores = [r.score for r in runs]
    score, interval, how = summarise(scores, len(found["test"]), lambda: bootstrap(matrices[0], mean_iou))
    total = matrices.sum((0, 1))
    return Result(
        metric="mIoU",
        score=score,
        interval_95=interval,
        interval=how,
        parameters={
            "schedule": context.schedule or "byol",
            **asdict(protocol),
            "lr": choice[0],
            "validation_mIoU_by_lr": choice[1],
            "lr_chosen_on": choice[2],
        },
        data={
            **describe_data(context.data, classes, **{n: (len(p), hashes[n]) for n, p in found.items()}),
            "name": "VOC2012" if found["train"].name.startswith("VOC2012/") else context.data.name,
        },
        metrics={
            "pixel_accuracy": 100 * float(np.diagonal(total).sum() / total.sum()),
            "loss": float(np.mean([r.loss for r in runs])),
        },
        details={
            "scores": [round(s, 2) for s in scores],
            "iou_by_class": [None if np.isnan(v) else round(float(v), 2) for v in ious(total)],
        },
    )
