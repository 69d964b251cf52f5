"""``depth``: an up-projection decoder on the encoder, all fine-tuned ([B] D.6; Laina et al., arXiv 1606.00373)."""

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
from zoo.evaluate.dense.augment import tensor
from zoo.evaluate.dense.backbone import channels, stages
from zoo.evaluate.dense.finetune import batch_rows, recent, tune
from zoo.evaluate.dense.prefetch import Upcoming
from zoo.evaluate.dense.schedules import DEPTH, Depth, find
from zoo.evaluate.dense.sweep import Trained, sgd_of, summarise
from zoo.evaluate.depth.data import Frames, augmented, prepare, splits
from zoo.evaluate.result import Result, bootstrap, describe_data
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

_NEAREST = 1e-3  # metres; a prediction below has no ratio to the truth
_BERHU = 0.2  # of the largest error of the batch (Laina et al., 3.2)


class UpProjection(nn.Module):
    """Float [N, C, H, W] -> [N, width, 2 H, 2 W]: two 5x5 convolutions of the map unpooled with zeros, one followed by
    a 3x3, summed (Laina et al., 3.1).

    Unpooling with zeros and a 5x5 convolution is one transposed convolution, which skips the zeros: what Laina et al.
    call the fast up-convolution. Both branches' first convolutions are one layer here.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(depth, 2 * width, 5, stride=2, padding=2, output_padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norm(self.up(x)).chunk(2, dim=1)
        return F.relu(self.conv_norm(self.conv(F.relu(first))) + second)


class DepthNet(nn.Module):
    """Float [N, 3, H, W], normalised -> metres [N, H, W]. ``encoder`` is used in place."""

    def __init__(self, encoder: nn.Module, widths: tuple[int, ...]) -> None:
        super().__init__()
        stem, layers = stages(encoder)
        self.trunk = nn.Sequential(stem, *layers)
        depth = channels(layers[-1])
        modules: list[nn.Module] = [nn.Conv2d(depth, depth // 2, 1, bias=False), nn.BatchNorm2d(depth // 2)]
        depth //= 2
        for width in widths:
            modules.append(UpProjection(depth, width))
            depth = width
        self.decoder = nn.Sequential(*modules, nn.Conv2d(depth, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        metres: Tensor = self.decoder(self.trunk(x))
        return F.interpolate(metres, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def berhu(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean reverse Huber loss over pixels whose truth is above 0: l1 up to c, beyond it (e^2 + c^2) / 2 c.

    c is a fifth of the batch's largest error and a constant to the gradient. Same shapes; 0 if no pixel is known.
    """
    error = (prediction - truth)[truth > 0].abs()
    if not error.numel():
        return prediction.sum() * 0
    c = (_BERHU * error.max()).detach().clamp(min=1e-6)
    return torch.where(error <= c, error, (error.square() + c * c) / (2 * c)).mean()


def sums(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of one frame where the truth is above 0: count, within 1.25, 1.25^2, 1.25^3, squared and relative error."""
    known = truth > 0
    p, t = np.maximum(prediction[known].astype(np.float64), _NEAREST), truth[known].astype(np.float64)
    ratio = np.maximum(p / t, t / p)
    within = [float((ratio < 1.25**k).sum()) for k in (1, 2, 3)]
    return np.array([len(t), *within, float(((p - t) ** 2).sum()), float((np.abs(p - t) / t).sum())])


def scores(rows: NDArray[np.float64]) -> dict[str, float]:
    """From ``sums`` of frames [N, 6], over all pixels at once: three percentages, rms in metres, rel."""
    count, one, two, three, squared, relative = rows.sum(0)
    return {
        "pct<1.25": 100 * one / count,
        "pct<1.25^2": 100 * two / count,
        "pct<1.25^3": 100 * three / count,
        "rms": float(np.sqrt(squared / count)),
        "rel": relative / count,
    }


def evaluate(context: Context) -> Result:
    """Trains on the training frames and scores on the test frames.

    Raises:
        UserError: data or options cannot be used, or the training diverged.
    """
    protocol = context.options(find(DEPTH, context.schedule, "byol"))
    if len(protocol.lrs) != 1:
        raise UserError("depth has one learning rate, there is no split to choose another on: --set lrs=VALUE")
    train, test = splits(context.data, protocol)
    hashes = {"train": train.sha256(), "test": test.sha256()}
    runs = [_run(context, protocol, train, test, hashes, context.seed + n) for n in range(protocol.seeds)]
    rows = np.array([r.detail for r in runs])
    score, interval, how = summarise(
        [r.score for r in runs], len(test), lambda: bootstrap(rows[0], lambda sample: scores(sample)["pct<1.25"])
    )
    per_run = [scores(r) for r in rows]
    mean = {name: float(np.mean([s[name] for s in per_run])) for name in per_run[0]}
    return Result(
        metric="pct<1.25",
        score=score,
        interval_95=interval,
        interval=how,
        parameters={"schedule": context.schedule or "byol", **asdict(protocol), "lr": protocol.lrs[0]},
        data={
            **describe_data(context.data, 0, train=(len(train), hashes["train"]), test=(len(test), hashes["test"])),
            "name": "NYUv2" if train.name.startswith("NYUv2/") else context.data.name,
        },
        metrics={**mean, "loss": float(np.mean([r.loss for r in runs]))},
        details={"scores": [round(r.score, 2) for r in runs]},
    )


def train_network(
    network: DepthNet,
    frames: Frames,
    protocol: Depth,
    preprocessing: Preprocessing,
    *,
    seed: int,
    key: object,
    device: str,
) -> list[float]:
    """Trains in place; the losses. Raises Diverged."""

    def make(step: int) -> tuple[Tensor, Tensor]:
        rows = batch_rows(seed, step, protocol.batch_size, len(frames))
        batch = [augmented(frames, row, protocol, seed, epoch) for epoch, row in rows]
        images = torch.stack([tensor(image, preprocessing) for image, _ in batch])
        return images, torch.from_numpy(np.stack([metres for _, metres in batch]))

    with Upcoming(make) as batches:

        def loss(step: int) -> Tensor:
            images, truth = batches(step)
            return berhu(network(images.to(device)), truth.to(device))

        return tune(network, sgd_of(protocol, protocol.lrs[0]), loss, seed=seed, key=key, device=device)


@torch.no_grad()
def predict_all(
    network: DepthNet, frames: Frames, protocol: Depth, preprocessing: Preprocessing, device: str
) -> NDArray[np.float64]:
    """``sums`` of each frame's crop, [N, 6]; sets ``network`` to eval mode."""
    network.eval()
    found = []
    with Progress("test frames") as progress:
        progress.start(len(frames))
        for row in range(len(frames)):
            image, metres = prepare(frames, row, protocol)
            found.append(sums(network(tensor(image, preprocessing)[None].to(device))[0].cpu().numpy(), metres))
            progress.advance(1)
    return np.stack(found)


def _run(context: Context, protocol: Depth, train: Frames, test: Frames, hashes: dict[str, str], seed: int) -> Trained:
    cell = context.cell(asdict(protocol), hashes, seed)
    if (kept := cell.read()) is not None:
        return Trained(**kept)
    preprocessing, device = context.embedder.preprocessing, context.embedder.engine.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DepthNet(copy.deepcopy(context.embedder.model), protocol.decoder).to(device)
    key = [context.embedder.identity(), asdict(protocol), hashes, seed]
    losses = train_network(network, train, protocol, preprocessing, seed=seed, key=key, device=device)
    rows = predict_all(network, test, protocol, preprocessing, device)
    trained = Trained(scores(rows)["pct<1.25"], recent(losses), rows.tolist())
    cell.write(asdict(trained))
    return trained
