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

import training.engine.optim
from training.data import augment_ops
from training.engine import schedules
from training.methods import BYOL, MoCoV2, SimCLR, SimSiam, StepInfo, SwAV
from training.recipes import table
from zoo.convert import byol, simsiam
from zoo.convert.common import recognise
from zoo.models.resnet import build_encoder
from zoo.numerics.lars import LARS

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


# ---------------------------------------------------------------- operations, schedules, LARS


OPERATIONS = ("brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_byol_operation(byol_ops: Path, operation: str) -> None:
    data = np.load(byol_ops)
    errors = Errors()
    for key in (k for k in data if k.endswith("_image")):
        n = key.removesuffix("_image")
        image = torch.tensor(data[key]).permute(2, 0, 1)[None]
        if operation in ("grayscale", "solarize"):
            ours = getattr(augment_ops, operation)(image)
        else:
            parameter = torch.tensor(data[f"{n}_{operation}_param"]).reshape(1)
            taps = {"taps": 2 * (image.shape[-1] // 10 // 2) + 1} if operation == "blur" else {}
            ours = getattr(augment_ops, operation)(image, parameter, **taps)
        errors.add(f"image {n}", ours[0].permute(1, 2, 0), data[f"{n}_{operation}"])
    errors.require(1e-6)


@pytest.mark.parametrize("epochs", [40, 100, 300, 1000])
def test_byol_schedules(byol_ops: Path, epochs: int) -> None:
    """Of the published presets, as the recipes have them: batch 4096, ImageNet's 1 281 167 images."""
    data = np.load(byol_ops)
    optim = table.find(f"byol_r50_in1k_{epochs}ep").optim
    batch, count = 4096, 1_281_167
    total, warmup = epochs * count // batch, 10 * count // batch
    for step, lr, tau_reference in zip(*(data[f"schedule_{epochs}_{k}"] for k in ("step", "lr", "tau")), strict=True):
        ours = schedules.warmup_cosine(int(step), base=optim.lr, batch_size=batch, total=total, warmup=warmup)
        assert ours == pytest.approx(float(lr), abs=1e-6)
        assert schedules.tau(optim, int(step), total) == pytest.approx(float(tau_reference), abs=1e-6)


def test_byol_lars(byol_ops: Path) -> None:
    data = np.load(byol_ops)
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
    steps = len({k.split("|")[0] for k in data if k.startswith("lars_grad")})
    for step in range(steps):
        for n in names:
            params[n].grad = torch.tensor(data[f"lars_grad{step}|{n}"])
        optimiser.step()
        for n in names:
            errors.add(n, params[n], data[f"lars_param{step + 1}|{n}"])
    errors.require(1e-6)


# ---------------------------------------------------------------- losses of SimCLR and SwAV


def test_simclr_loss(simclr_ops: Path) -> None:
    """Loss, logits and gradient through ``SimCLR.forward``, with identities for encoder and head."""
    data = np.load(simclr_ops)
    errors = Errors()
    for key in (k for k in data if k.endswith("_hidden")):
        n = key.removesuffix("_hidden")
        hidden = torch.tensor(data[key]).requires_grad_()
        model = SimCLR(nn.Identity(), hidden.shape[1], temperature=float(data[f"{n}_temperature"]))
        model.projector = nn.Sequential()
        h1, h2 = hidden.chunk(2)
        loss = model([h1, h2])["loss"]
        loss.backward()
        errors.add(f"{n} loss", loss, data[f"{n}_loss"])
        errors.add(f"{n} gradient", hidden.grad, data[f"{n}_grad"])
        errors.add(f"{n} logits", model.logits(h1, h2), data[f"{n}_logits_ab"])
    errors.require(1e-5)


def test_swav_sinkhorn(swav_ops: Path) -> None:
    data = np.load(swav_ops)
    errors = Errors()
    for key in (k for k in data if k.startswith("sinkhorn") and k.endswith("_scores")):
        n = key.removesuffix("_scores")
        epsilon, iterations = data[f"{n}_epsilon_iterations"]
        model = SwAV(nn.Identity(), 4, epsilon=float(epsilon), iterations=int(iterations)).double()
        errors.add(n, model.assign(torch.tensor(data[key]).double(), 0), data[f"{n}_assignments"])
    errors.require(1e-9)


def test_swav_loss(swav_ops: Path) -> None:
    """Loss and gradients with respect to normalised embeddings and prototypes, with and without a queue.

    Where the file does not say how many crops its rows are of, every number that divides them is tried: at 1e-9 only
    the right one gives the loss.
    """
    data = np.load(swav_ops)
    for key in (k for k in data if k.startswith("loss_") and k.endswith("_embeddings") and "grad" not in k):
        name = key.removesuffix("_embeddings")
        rows = len(data[key])
        stated = [int(data[k]) for k in (f"{name}_crops", "crops") if k in data]
        candidates = stated[:1] or [c for c in range(2, rows + 1) if rows % c == 0]
        results = [swav_errors(data, name, crops) for crops in candidates]
        best = min(results, key=lambda e: max(e.by_name.values()))
        print(f"\n{name}: {candidates[results.index(best)]} crops", end="")
        best.require(1e-9)


def swav_errors(data: np.lib.npyio.NpzFile, name: str, crops: int) -> Errors:
    embeddings = torch.tensor(data[f"{name}_embeddings"]).double().requires_grad_()
    prototypes = torch.tensor(data[f"{name}_prototypes"])
    queue = data[f"{name}_queue"] if f"{name}_queue" in data else np.zeros((2, 0, embeddings.shape[1]))
    settings = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3}  # of the official script
    settings |= {k: float(data[f"{name}_{k}"]) for k in settings if f"{name}_{k}" in data}
    model = SwAV(
        nn.Identity(),
        4,
        out=embeddings.shape[1],
        prototypes=len(prototypes),
        temperature=settings["temperature"],
        epsilon=settings["epsilon"],
        iterations=int(settings["iterations"]),
        queue=queue.shape[1],
        queue_from_epoch=0,
    ).double()
    model.before_step(StepInfo(0, 1, 0, 0.0))
    with torch.no_grad():
        model.prototypes.weight.copy_(prototypes)
        model.queue.copy_(torch.tensor(queue))
        model.queue_rows.fill_(queue.shape[1])
    loss = model.swapped_prediction(embeddings, crops)
    loss.backward()
    errors = Errors()
    errors.add(f"{name} loss", loss, data[name])
    errors.add(f"{name} gradient of embeddings", embeddings.grad, data[f"{name}_grad_embeddings"])
    errors.add(f"{name} gradient of prototypes", model.prototypes.weight.grad, data[f"{name}_grad_prototypes"])
    return errors


# ---------------------------------------------------------------- whole training steps


def byol_from(path: Path, hyper: dict) -> BYOL:
    checkpoint = byol.read(path)
    model = BYOL(
        build_encoder(checkpoint.architecture),
        checkpoint.architecture.num_features,
        target_encoder=build_encoder(checkpoint.architecture),
        hidden=hyper["projector_hidden"],
        out=hyper["projector_out"],
        num_classes=hyper.get("num_classes"),
    )
    load(model, checkpoint.online, ("encoder", "projector", "predictor", "classifier"))
    load(model, checkpoint.target, ("target_encoder", "target_projector"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps, module.momentum = hyper["bn_eps"], 1 - hyper["bn_decay"]
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
    optimiser = training.engine.optim.lars(
        model, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"], eta=hyper["eta"]
    )
    errors = Errors()
    for i in range(len(data["view1"])):
        labels = torch.tensor(data["labels"][i]).long() if "labels" in data else None
        losses = model([images(data["view1"][i]), images(data["view2"][i])], labels)
        errors.add(f"step {i} loss", losses["loss"].reshape(1), data["repr_loss"][i].reshape(1))
        if labels is not None:
            errors.add(f"step {i} classifier", losses["classifier"].reshape(1), data["classif_loss"][i].reshape(1))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        for group in optimiser.param_groups:
            group["lr"] = float(data["learning_rate"][i])
        optimiser.step()
        step = hyper["first_global_step"] + i
        tau = schedules.target_momentum(step, base=hyper["base_target_ema"], total=hyper["total_steps"])
        assert tau == pytest.approx(float(data["tau"][i]), abs=1e-12)
        model.after_step(StepInfo(step, hyper["total_steps"], 0, tau))
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
    optimiser = training.engine.optim.sgd(model, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"])
    errors = Errors()
    for i in range(len(data["view1"])):
        loss = model([images(data["view1"][i]), images(data["view2"][i])])["loss"]
        errors.add(f"step {i}", loss.reshape(1), data["loss"][i].reshape(1))
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            predictor = group.get("predictor", False)
            group["lr"] = hyper["predictor_learning_rate"] if predictor else float(data["encoder_learning_rate"][i])
        optimiser.step()
    errors.require(1e-9)


def mocov2_from(path: Path, hyper: dict) -> MoCoV2:
    """From the layout of the official builder: ``module.encoder_q.*``, ``module.encoder_k.*``, the queue."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = {k.removeprefix("module."): v for k, v in loaded.items()}
    query = {k.removeprefix("encoder_q."): v for k, v in state.items() if k.startswith("encoder_q.")}
    architecture, _ = recognise({k: v for k, v in query.items() if not k.startswith("fc.")})
    model = MoCoV2(
        build_encoder(architecture),
        architecture.num_features,
        out=hyper["dim"],
        queue=hyper["queue"],
        momentum=hyper["key_momentum"],
        temperature=hyper["temperature"],
    )
    for ours, theirs in (("", "encoder_q."), ("key_", "encoder_k.")):
        part = {k.removeprefix(theirs): v for k, v in state.items() if k.startswith(theirs)}
        head = {k.removeprefix("fc."): v for k, v in part.items() if k.startswith("fc.")}
        trunk = {k: v for k, v in part.items() if not k.startswith("fc.")}
        model.get_submodule(f"{ours}encoder").load_state_dict(recognise(trunk)[1])
        model.get_submodule(f"{ours}projector").load_state_dict(head)
    model.double()
    model.queue.copy_(state["queue"])
    model.queue_pointer.copy_(state["queue_ptr"][0])
    return model


def test_mocov2_trajectory(mocov2_group: Path) -> None:
    hyper = json.loads(mocov2_group.with_suffix(".json").read_text())
    data = np.load(mocov2_group.with_suffix(".npz"))
    model = mocov2_from(mocov2_group.with_name(mocov2_group.name + ".init.pth.tar"), hyper)
    optimiser = training.engine.optim.sgd(model, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"])
    optimiser.param_groups[0]["lr"] = hyper["learning_rate"]
    errors, queue = Errors(), Errors()
    steps = len(data["loss"])
    for i in range(steps):
        info = StepInfo(i, steps, 0, 0.0)
        model.before_step(info)
        loss = model([images(data["view_query"][i]), images(data["view_key"][i])])["loss"]
        errors.add(f"step {i}", loss.reshape(1), data["loss"][i].reshape(1))
        optimiser.zero_grad()
        loss.backward()
        model.before_update(info)
        optimiser.step()
        model.after_step(info)
    errors.require(1e-9)
    queue.add("queue", model.queue, data["queue_after"])
    queue.require(1e-7)
    assert int(model.queue_pointer) == int(data["queue_pointer"])


# ---------------------------------------------------------------- stored statistics, all image sizes


def final(group: Path, suffix: str) -> Path:
    path = group.with_name(f"{group.name}.final{suffix}")
    if not path.exists():
        pytest.skip(f"{group.name} has no final checkpoint")
    return path


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
    model = byol_from(final(byol_group, ".pkl"), hyper)
    evaluate(model, np.load(byol_group.with_suffix(".npz")), dtype, limit)


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS, ids=["float32", "float64"])
def test_simsiam_evaluation(simsiam_group: Path, dtype: torch.dtype, limit: float) -> None:
    model = simsiam_from(final(simsiam_group, ".pth.tar"))
    evaluate(model, np.load(simsiam_group.with_suffix(".npz")), dtype, limit)
