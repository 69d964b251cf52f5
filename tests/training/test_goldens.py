"""Our code against outputs of the official codes; ``--goldens DIR`` names a folder with more of them.

Errors are max|difference| / max|reference| over an array; each test prints its largest one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import training.optim
from training import image_ops, schedules
from training.methods import BYOL, SimSiam
from zoo.convert import deepmind_byol, simsiam
from zoo.encoder import build_encoder
from zoo.lars import LARS

MEAN = torch.tensor((0.485, 0.456, 0.406), dtype=torch.float64)[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225), dtype=torch.float64)[:, None, None]


class Errors:
    """Collects relative errors by name and prints the largest."""

    def __init__(self) -> None:
        self.by_name: dict[str, float] = {}

    def add(self, name: str, ours: Tensor | np.ndarray, reference: np.ndarray) -> None:
        ours = np.asarray(ours.detach() if isinstance(ours, Tensor) else ours, np.float64)
        assert ours.shape == reference.shape, name
        scale = np.abs(reference).max() or 1.0
        error = float(np.abs(ours - reference).max() / scale)
        self.by_name[name] = max(error, self.by_name.get(name, 0.0))

    def require(self, limit: float) -> None:
        worst = max(self.by_name, key=self.by_name.__getitem__)
        print(f"\nlargest relative error {self.by_name[worst]:.1e} ({worst}), allowed {limit:.0e}")
        assert self.by_name[worst] < limit, sorted(self.by_name.items(), key=lambda e: -e[1])[:5]


def images(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    """[.., H, W, 3] in [0, 1] -> normalised [.., 3, H, W]."""
    return (torch.tensor(array, dtype=torch.float64).movedim(-1, -3) - MEAN).div(STD).to(dtype)


def load_arrays(path: Path) -> np.lib.npyio.NpzFile:
    if not path.exists():
        pytest.skip(f"no {path.name} in the goldens folder")
    return np.load(path)


# ---------------------------------------------------------------- operations, schedules, LARS


OPERATIONS = ("brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_byol_operation(goldens: Path, operation: str) -> None:
    data = load_arrays(goldens / "byol_ops.npz")
    errors = Errors()
    for n in range(sum(k.endswith("_image") for k in data)):
        image = torch.tensor(data[f"{n}_image"]).permute(2, 0, 1)[None]
        if operation in ("grayscale", "solarize"):
            ours = getattr(image_ops, operation)(image)
        else:
            parameter = torch.tensor(data[f"{n}_{operation}_param"]).reshape(1)
            taps = {"taps": 2 * (image.shape[-1] // 10 // 2) + 1} if operation == "blur" else {}
            ours = getattr(image_ops, operation)(image, parameter, **taps)
        errors.add(f"image {n}", ours[0].permute(1, 2, 0), data[f"{n}_{operation}"])
    errors.require(1e-6)


@pytest.mark.parametrize("epochs", [40, 100, 300, 1000])
def test_byol_schedules(goldens: Path, epochs: int) -> None:
    data = load_arrays(goldens / "byol_ops.npz")
    base, tau = {40: (0.45, 0.97), 100: (0.45, 0.99), 300: (0.3, 0.99), 1000: (0.2, 0.996)}[epochs]
    batch, count = 4096, 1_281_167
    total, warmup = epochs * count // batch, 10 * count // batch
    for step, lr, tau_reference in zip(*(data[f"schedule_{epochs}_{k}"] for k in ("step", "lr", "tau")), strict=True):
        ours = schedules.warmup_cosine(int(step), base=base, batch_size=batch, total=total, warmup=warmup)
        assert ours == pytest.approx(float(lr), abs=1e-6)
        ours = schedules.target_momentum(int(step), base=tau, total=total)
        assert ours == pytest.approx(float(tau_reference), abs=1e-6)


def test_byol_lars(goldens: Path) -> None:
    data = load_arrays(goldens / "byol_ops.npz")
    names = [k.removeprefix("lars_param0|") for k in data if k.startswith("lars_param0|")]
    params = {n: nn.Parameter(torch.tensor(data[f"lars_param0|{n}"])) for n in names}
    excluded = {n for n in names if n.endswith("|b") or "norm" in n.split("|")[0]}
    optimiser = LARS(
        [
            {"params": [params[n] for n in names if n not in excluded], "weight_decay": 1.5e-3},
            {"params": [params[n] for n in excluded], "adapt": False},
        ],
        lr=0.37,
    )
    errors = Errors()
    for step in range(5):
        for n in names:
            params[n].grad = torch.tensor(data[f"lars_grad{step}|{n}"])
        optimiser.step()
        for n in names:
            errors.add(n, params[n], data[f"lars_param{step + 1}|{n}"])
    errors.require(1e-6)


# ---------------------------------------------------------------- whole training steps


def byol_from(path: Path, hyper: dict) -> BYOL:
    checkpoint = deepmind_byol.read(path)
    model = BYOL(
        build_encoder(checkpoint.architecture),
        checkpoint.architecture.num_features,
        target_encoder=build_encoder(checkpoint.architecture),
        hidden=hyper["projector_hidden"],
        out=hyper["projector_out"],
        num_classes=hyper["num_classes"],
    )
    load(model, checkpoint.online, ("encoder", "projector", "predictor", "classifier"))
    load(model, checkpoint.target, ("target_encoder", "target_projector"))
    return model.double()


def load(model: nn.Module, parts: dict[str, dict[str, Tensor]], names: tuple[str, ...]) -> None:
    for name in names:
        module = model.get_submodule(name)
        missing, unexpected = module.load_state_dict(parts[name.removeprefix("target_")], strict=False)
        assert not unexpected
        # a file from before the first step has no statistics of heads in some layouts: only counters may lack
        assert all("num_batches_tracked" in k for k in missing), missing


def test_byol_trajectory(byol_group: Path) -> None:
    """Every loss of some training steps of the official code, from its own checkpoint."""
    hyper = json.loads(byol_group.with_suffix(".json").read_text())
    data = np.load(byol_group.with_suffix(".npz"))
    model = byol_from(byol_group.with_name(byol_group.name + ".init.pkl"), hyper)
    optimiser = training.optim.lars(model, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"])
    errors = Errors()
    for i in range(len(data["view1"])):
        labels = torch.tensor(data["labels"][i]).long()
        losses = model.losses(images(data["view1"][i]), images(data["view2"][i]), labels)
        errors.add(f"step {i} loss", losses["loss"].reshape(1), data["repr_loss"][i].reshape(1))
        errors.add(f"step {i} classifier", losses["classifier"].reshape(1), data["classif_loss"][i].reshape(1))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        for group in optimiser.param_groups:
            group["lr"] = float(data["learning_rate"][i])
        optimiser.step()
        step = hyper["first_global_step"] + i
        tau = schedules.target_momentum(step, base=hyper["base_target_ema"], total=hyper["total_steps"])
        assert tau == pytest.approx(float(data["tau"][i]), abs=1e-12)
        model.after_step(tau)
    errors.require(1e-9)


def simsiam_from(path: Path) -> SimSiam:
    checkpoint = simsiam.read(path)
    out, hidden = checkpoint.predictor["3.weight"].shape
    encoder = build_encoder(checkpoint.architecture)
    model = SimSiam(encoder, checkpoint.architecture.num_features, out=out, hidden=hidden)
    model.encoder.load_state_dict(checkpoint.encoder)
    model.projector.load_state_dict(checkpoint.projector)
    model.predictor.load_state_dict(checkpoint.predictor)
    return model.double()


def test_simsiam_trajectory(simsiam_group: Path) -> None:
    hyper = json.loads(simsiam_group.with_suffix(".json").read_text())
    data = np.load(simsiam_group.with_suffix(".npz"))
    model = simsiam_from(simsiam_group.with_name(simsiam_group.name + ".init.pth.tar"))
    optimiser = training.optim.sgd(model, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"])
    errors = Errors()
    for i in range(len(data["view1"])):
        loss = model.losses(images(data["view1"][i]), images(data["view2"][i]))["loss"]
        errors.add(f"step {i}", loss.reshape(1), data["loss"][i].reshape(1))
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            predictor = group.get("predictor", False)
            group["lr"] = hyper["predictor_learning_rate"] if predictor else float(data["encoder_learning_rate"][i])
        optimiser.step()
    errors.require(1e-9)


# ---------------------------------------------------------------- stored statistics, all image sizes


def evaluate(model: BYOL | SimSiam, data: np.lib.npyio.NpzFile, dtype: torch.dtype, limit: float) -> None:
    model = model.to(dtype).eval()
    errors = Errors()
    sizes = [k.removeprefix("eval_image_") for k in data if k.startswith("eval_image_")]
    assert sizes
    for size in sizes:
        with torch.no_grad():
            embedding = model.encoder(images(data[f"eval_image_{size}"], dtype))
            projection = model.projector(embedding)
            prediction = model.predictor(projection)
        errors.add(f"embedding {size}", embedding, data[f"eval_embedding_{size}"])
        errors.add(f"projection {size}", projection, data[f"eval_projection_{size}"])
        errors.add(f"prediction {size}", prediction, data[f"eval_prediction_{size}"])
    errors.require(limit)


PRECISIONS = [(torch.float32, 1e-4), (torch.float64, 1e-6)]


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS, ids=["float32", "float64"])
def test_byol_evaluation(byol_group: Path, dtype: torch.dtype, limit: float) -> None:
    hyper = json.loads(byol_group.with_suffix(".json").read_text())
    model = byol_from(byol_group.with_name(byol_group.name + ".final.pkl"), hyper)
    evaluate(model, np.load(byol_group.with_suffix(".npz")), dtype, limit)


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS, ids=["float32", "float64"])
def test_simsiam_evaluation(simsiam_group: Path, dtype: torch.dtype, limit: float) -> None:
    model = simsiam_from(simsiam_group.with_name(simsiam_group.name + ".final.pth.tar"))
    evaluate(model, np.load(simsiam_group.with_suffix(".npz")), dtype, limit)
