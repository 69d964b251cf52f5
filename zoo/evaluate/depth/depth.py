"""``depth``: an up-projection decoder on the encoder, all layers fine-tuned ([B] app. D.6).

[B] is the BYOL paper (arXiv 2006.07733), which follows Laina et al. (arXiv 1606.00373) and has no published code for
it. Each constant stands with its source in ``zoo.evaluate.dense.schedules``.
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

from zoo.errors import UserError
from zoo.evaluate.dense.augment import to_tensor
from zoo.evaluate.dense.backbone import out_channels, split_stages
from zoo.evaluate.dense.finetune import batch_rows, recent_loss, require_finite, run_sgd
from zoo.evaluate.dense.schedules import DEPTH, DepthSchedule, find_schedule
from zoo.evaluate.dense.sweep import RunScore, score_over_runs, sgd_config
from zoo.evaluate.depth.data import DepthFrames, center_crop, open_depth_data, training_crop
from zoo.evaluate.result import Result, bootstrap_interval, data_summary
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

_NEAREST = 1e-3  # metres; smaller predictions are raised to it, because they have no ratio to the truth
_BERHU = 0.2  # of the largest error of the batch (Laina et al., 3.2)


def evaluate(context: Context) -> Result:
    """Train on the training frames, and score on the test frames.

    Raises:
        UserError: data or options cannot be used, or the training diverged.
    """
    schedule = context.options(find_schedule(DEPTH, context.schedule, "byol"))
    if len(schedule.lrs) != 1:
        raise UserError("depth has one learning rate, there is no split to choose another on: --set lrs=VALUE")
    train, test = open_depth_data(context.data, schedule)
    if not any((center_crop(test, row, schedule)[1] > 0).any() for row in range(len(test))):  # the first one suffices
        raise UserError(f"{test.name} knows no depth within its crops: nothing can be scored; change them with --set")
    hashes = {"train": train.sha256(), "test": test.sha256()}
    preprocessing, device = context.embedder.preprocessing, context.embedder.engine.device

    def run(seed: int) -> RunScore:
        """Train and score one network, or take over what an earlier run finished."""
        cached = context.cached_part(asdict(schedule), hashes, seed)
        if (stored := cached.read()) is not None:
            return RunScore(**stored)
        # The decoder starts from the seed alone, whatever ran before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = DepthNet(copy.deepcopy(context.embedder.model), schedule.decoder).to(device)
        # Train, then score the test frames.
        key = [context.embedder.identity(), asdict(schedule), hashes, seed]
        losses = train_network(network, train, schedule, preprocessing, seed=seed, key=key, device=device)
        sums = predict_all(network, test, schedule, preprocessing, device)
        score = RunScore(depth_metrics(sums)["pct<1.25"], recent_loss(losses), sums.tolist())
        cached.write(asdict(score))
        return score

    # Every seed trains a network of its own.
    runs = [run(context.seed + n) for n in range(schedule.seeds)]
    sums = np.array([r.detail for r in runs])  # [seeds, N, 6]
    score, interval, method = score_over_runs(
        [r.score for r in runs],
        len(test),
        lambda: bootstrap_interval(sums[0], lambda rows: depth_metrics(rows)["pct<1.25"]),
    )
    by_run = [depth_metrics(rows) for rows in sums]
    mean = {name: float(np.mean([metrics[name] for metrics in by_run])) for name in by_run[0]}
    return Result(
        metric="pct<1.25",
        score=score,
        interval_95=interval,
        interval=method,
        parameters={"schedule": context.schedule or "byol", **asdict(schedule), "lr": schedule.lrs[0]},
        data=data_summary(context.data, 0, train=(len(train), hashes["train"]), test=(len(test), hashes["test"]))
        | {"name": "NYUv2" if train.name.startswith("NYUv2/") else context.data.name},
        metrics={**mean, "loss": float(np.mean([r.loss for r in runs]))},
        details={"scores": [round(r.score, 2) for r in runs]},
    )


class UpProjection(nn.Module):
    """Float [N, C, H, W] -> [N, width, 2 H, 2 W] (Laina et al., 3.1).

    The sum of two 5x5 convolutions of the map unpooled with zeros, one of them followed by a 3x3. Unpooling with zeros
    and a 5x5 convolution is one transposed convolution, which skips the zeros: what Laina et al. call the fast
    up-convolution. The 5x5 convolutions of both branches are one layer here.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, 2 * width, 5, stride=2, padding=2, output_padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norm(self.up(x)).chunk(2, dim=1)
        return F.relu(self.conv_norm(self.conv(F.relu(first))) + second)


class DepthNet(nn.Module):
    """Float [N, 3, H, W], normalised -> metres [N, H, W].

    Args:
        encoder: used in place.
        widths: channels of the up-projection blocks.
    """

    def __init__(self, encoder: nn.Module, widths: tuple[int, ...]) -> None:
        super().__init__()
        stem, stages = split_stages(encoder)
        self.backbone = nn.Sequential(stem, *stages)
        channels = out_channels(stages[-1])
        modules: list[nn.Module] = [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.BatchNorm2d(channels // 2)]
        channels //= 2
        for width in widths:
            modules.append(UpProjection(channels, width))
            channels = width
        self.decoder = nn.Sequential(*modules, nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        metres: Tensor = self.decoder(self.backbone(x))
        return F.interpolate(metres, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def berhu(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the mean reverse Huber loss over pixels whose truth is above 0: l1 up to c, beyond it (e^2 + c^2) / 2 c.

    c is a fifth of the largest error of the batch, and a constant to the gradient. Both tensors have one shape; the
    loss is 0 if no depth is known.
    """
    error = (prediction - truth)[truth > 0].abs()
    if not error.numel():
        return prediction.sum() * 0
    c = (_BERHU * error.max()).detach().clamp(min=1e-6)
    return torch.where(error <= c, error, (error.square() + c * c) / (2 * c)).mean()


def error_sums(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return six sums over the pixels of a frame whose truth is above 0.

    They are the number of pixels; of pixels within 1.25, 1.25^2 and 1.25^3; the squared and the relative errors.
    """
    known = truth > 0
    p, t = np.maximum(prediction[known].astype(np.float64), _NEAREST), truth[known].astype(np.float64)
    ratio = np.maximum(p / t, t / p)
    within = [float((ratio < 1.25**k).sum()) for k in (1, 2, 3)]
    return np.array([len(t), *within, float(((p - t) ** 2).sum()), float((np.abs(p - t) / t).sum())])


def depth_metrics(sums: NDArray[np.float64]) -> dict[str, float]:
    """Return three percentages, rms in metres and rel over all pixels, from ``error_sums`` of frames [N, 6]."""
    count, one, two, three, squared, relative = sums.sum(0)
    return {
        "pct<1.25": 100 * one / count,
        "pct<1.25^2": 100 * two / count,
        "pct<1.25^3": 100 * three / count,
        "rms": float(np.sqrt(squared / count)),
        "rel": relative / count,
    }


def train_network(
    network: DepthNet,
    frames: DepthFrames,
    schedule: DepthSchedule,
    preprocessing: Preprocessing,
    *,
    seed: int,
    key: object,
    device: str,
) -> list[float]:
    """Train in place and return the losses.

    Raises:
        Diverged: a loss is not finite.
    """

    # A batch is a function of the seed and the step.
    def make_batch(step: int) -> tuple[Tensor, Tensor]:
        rows = batch_rows(seed, step, schedule.batch_size, len(frames))
        crops = [training_crop(frames, row, schedule, seed, epoch) for epoch, row in rows]
        images = torch.stack([to_tensor(image, preprocessing) for image, _ in crops])
        return images, torch.from_numpy(np.stack([metres for _, metres in crops]))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, truth = batch
        return berhu(network(images.to(device)), truth.to(device))

    config = sgd_config(schedule, schedule.lrs[0])
    return run_sgd(network, config, make_batch, loss, seed=seed, key=key, device=device)


@torch.no_grad()
def predict_all(
    network: DepthNet, frames: DepthFrames, schedule: DepthSchedule, preprocessing: Preprocessing, device: str
) -> NDArray[np.float64]:
    """Return ``error_sums`` of the crop of each frame, [N, 6]; sets eval mode.

    Raises:
        Diverged: the network's depths are not finite.
    """
    network.eval()
    sums = []
    with Progress("test frames") as progress:
        progress.start(len(frames))
        for row in range(len(frames)):
            image, metres = center_crop(frames, row, schedule)
            output = network(to_tensor(image, preprocessing)[None].to(device))
            require_finite(output, f"depths of {frames.name}")
            sums.append(error_sums(output[0].cpu().numpy(), metres))
            progress.advance(1)
    return np.stack(sums)
