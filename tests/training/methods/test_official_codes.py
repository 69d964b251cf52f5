"""Our code against outputs of the official codes; ``--goldens DIR`` names a folder with more of them.

Errors are max|difference| / max|reference| over an array; each test prints its largest one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from relative_errors import RelativeErrors
from torch import Tensor, nn

import training.engine.optim
from training.data import augment, augment_ops
from training.engine import schedules
from training.methods import BYOL, MoCoV2, SimCLR, SimSiam, StepInfo, SwAV
from training.recipes import table
from training.recipes.config import Views
from zoo.convert import byol, simsiam
from zoo.convert.common import recognise, sequential
from zoo.models.resnet import build_encoder
from zoo.numerics.lars import LARS


def images(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    """[.., H, W, 3] in [0, 1] -> normalised [.., 3, H, W]."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (augment.MEAN, Views().std))
    return (torch.tensor(array, dtype=torch.float64).movedim(-1, -3) - mean).div(std).to(dtype)


# ---------------------------------------------------------------- operations, schedules, LARS


LARS_STEPS = 5
OPERATIONS = ("brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_byol_operation(byol_ops: Path, operation: str) -> None:
    data = np.load(byol_ops)
    errors = RelativeErrors(torch.float32)
    numbers = [key.removesuffix("_image") for key in data if key.endswith("_image")]
    for n in numbers:
        image = torch.tensor(data[f"{n}_image"]).permute(2, 0, 1)[None]
        if operation in ("grayscale", "solarize"):
            ours = getattr(augment_ops, operation)(image)
        else:
            parameter = torch.tensor(data[f"{n}_{operation}_param"]).float().reshape(1)
            taps = {"taps": 2 * (image.shape[-1] // 10 // 2) + 1} if operation == "blur" else {}
            ours = getattr(augment_ops, operation)(image, parameter, **taps)
        errors.add(f"image {n}", ours[0].permute(1, 2, 0), data[f"{n}_{operation}"])
    errors.require(1e-6, [f"image {n}" for n in range(len(numbers))])


@pytest.mark.parametrize("epochs", [40, 100, 300, 1000])
def test_byol_schedules(byol_ops: Path, epochs: int) -> None:
    """Of the published presets, as the recipes have them: batch 4096, ImageNet's 1 281 167 images."""
    data = np.load(byol_ops)
    optim = table.find(f"byol_r50_in1k_{epochs}ep").optim
    batch, count = 4096, 1_281_167
    total, warmup = epochs * count // batch, 10 * count // batch
    assert len(data[f"schedule_{epochs}_step"]) >= 20
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
    errors = RelativeErrors(torch.float32)
    for step in range(LARS_STEPS):
        for n in names:
            params[n].grad = torch.tensor(data[f"lars_grad{step}|{n}"])
        optimiser.step()
        for n in names:
            errors.add(f"{n} after step {step}", params[n], data[f"lars_param{step + 1}|{n}"])
    assert len(names) == 7
    assert len(excluded) == 3
    errors.require(1e-6, [f"{n} after step {step}" for n in names for step in range(LARS_STEPS)])


# ---------------------------------------------------------------- losses of SimCLR and SwAV


def test_simclr_loss(simclr_ops: Path) -> None:
    """Loss, logits and gradient through ``SimCLR.forward``, with identities for encoder and head."""
    data = np.load(simclr_ops)
    errors = RelativeErrors(torch.float32)
    cases = [key.removesuffix("_hidden") for key in data if key.endswith("_hidden")]
    for n in cases:
        hidden = torch.tensor(data[f"{n}_hidden"]).requires_grad_()
        model = SimCLR(nn.Identity(), hidden.shape[1], temperature=float(data[f"{n}_temperature"]))
        model.projector = nn.Sequential()
        h1, h2 = hidden.chunk(2)
        loss = model([h1, h2])["loss"]
        loss.backward()
        errors.add(f"{n} loss", loss, data[f"{n}_loss"])
        errors.add(f"{n} gradient", hidden.grad, data[f"{n}_grad"])
        errors.add(f"{n} logits", model.logits(h1, h2), data[f"{n}_logits_ab"])
    errors.require(1e-5, [f"{n} {what}" for n in cases for what in ("loss", "gradient", "logits")])


def test_swav_sinkhorn(swav_ops: Path) -> None:
    data = np.load(swav_ops)
    errors = RelativeErrors(torch.float64)
    cases = [key.removesuffix("_scores") for key in data if key.endswith("_scores")]
    for n in cases:
        epsilon, iterations = data[f"{n}_epsilon_iterations"]
        model = SwAV(nn.Identity(), 4, epsilon=float(epsilon), iterations=int(iterations)).double()
        errors.add(n, model.assign(torch.tensor(data[f"{n}_scores"]), 0), data[f"{n}_assignments"])
    errors.require(1e-9, cases)


SWAV_CROPS = 2 + 3  # of both cases, as the README of the goldens says


@pytest.mark.parametrize("case", ["plain", "queue"])
def test_swav_loss(swav_ops: Path, case: str) -> None:
    """Loss and gradients with respect to normalised embeddings and prototypes, with and without a queue."""
    data = np.load(swav_ops)
    embeddings = torch.tensor(data[f"loss_{case}_embeddings"]).requires_grad_()  # crop after crop, of unit length
    prototypes = torch.tensor(data[f"loss_{case}_prototypes"])
    assert len(embeddings) > 0 == len(embeddings) % SWAV_CROPS
    queue = torch.tensor(data["loss_queue_queue"]) if case == "queue" else torch.zeros(2, 0, embeddings.shape[1])
    recipe = table.find("swav_r50_in1k_800ep").objective
    model = SwAV(
        nn.Identity(),
        4,
        out=embeddings.shape[1],
        prototypes=len(prototypes),
        temperature=recipe.temperature,
        epsilon=recipe.epsilon,
        iterations=recipe.sinkhorn_iterations,
        queue=queue.shape[1],
        queue_from_epoch=0,
    ).double()
    model.before_step(StepInfo(0, 1, 0, 0.0))
    with torch.no_grad():
        model.prototypes.weight.copy_(prototypes)
        model.queue.copy_(queue)
        model.queue_rows.fill_(queue.shape[1])
    loss = model.swapped_prediction(embeddings, SWAV_CROPS)
    loss.backward()
    errors = RelativeErrors(torch.float64)
    errors.add("loss", loss, data[f"loss_{case}"])
    errors.add("gradient of embeddings", embeddings.grad, data[f"loss_{case}_grad_embeddings"])
    errors.add("gradient of prototypes", model.prototypes.weight.grad, data[f"loss_{case}_grad_prototypes"])
    errors.require(1e-9, ["loss", "gradient of embeddings", "gradient of prototypes"])


# ---------------------------------------------------------------- whole training steps


def byol_from(path: Path, hyper: dict) -> BYOL:
    checkpoint = byol.read(path)
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
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.zero_()
    optimiser = training.engine.optim.lars(
        model, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"], eta=hyper["eta"]
    )
    errors = RelativeErrors(torch.float64)
    steps = len(data["view1"])
    assert steps, "a trajectory without steps"
    for i in range(steps):
        labels = torch.tensor(data["labels"][i]).long()
        losses = model([images(data["view1"][i]), images(data["view2"][i])], labels)
        errors.add(f"step {i} loss", losses["loss"], np.asarray(data["repr_loss"][i]))
        errors.add(f"step {i} classifier", losses["classifier"], np.asarray(data["classif_loss"][i]))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        for group in optimiser.param_groups:
            group["lr"] = float(data["learning_rate"][i])
        optimiser.step()
        step = hyper["first_global_step"] + i
        tau = schedules.target_momentum(step, base=hyper["base_target_ema"], total=hyper["total_steps"])
        assert tau == pytest.approx(float(data["tau"][i]), abs=1e-12)
        model.after_step(StepInfo(step, hyper["total_steps"], 0, tau))
    errors.require(1e-9, [f"step {i} {what}" for i in range(steps) for what in ("loss", "classifier")])
    if (path := byol_group.with_name(byol_group.name + ".final.pkl")).exists():
        require_state_after(model, byol_from(path, hyper), means=1 - hyper["bn_decay"] ** (2 * steps))


def require_state_after(model: BYOL, official: BYOL, *, means: float) -> None:
    """Compare both networks after the last step with the official code's, which it stored in float32.

    Haiku's moving means start at 0. Haiku divides them by ``means``, the sum of the weights of all batches so far. The
    variances are not compared: Haiku's are biased, PyTorch's are unbiased. No loss reads them.
    """
    after, stored, names = RelativeErrors(torch.float64), official.state_dict(), []
    for key, value in model.state_dict().items():
        if not key.endswith(("num_batches_tracked", "running_var")):
            after.add(key, value / means if key.endswith("running_mean") else value, stored[key].numpy())
            names.append(key)
    after.require(1e-6, names)


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
    errors = RelativeErrors(torch.float64)
    steps = len(data["view1"])
    assert steps, "a trajectory without steps"
    for i in range(steps):
        loss = model([images(data["view1"][i]), images(data["view2"][i])])["loss"]
        errors.add(f"step {i}", loss, np.asarray(data["loss"][i]))
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            predictor = group.get("predictor", False)
            group["lr"] = hyper["predictor_learning_rate"] if predictor else float(data["encoder_learning_rate"][i])
        optimiser.step()
    errors.require(1e-9, [f"step {i}" for i in range(steps)])


def mocov2_from(path: Path, hyper: dict) -> MoCoV2:
    """From the layout of the official builder: ``module.encoder_q.*``, ``module.encoder_k.*``, the queue."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = {k.removeprefix("module."): v for k, v in loaded.items()}
    query = {k.removeprefix("encoder_q."): v for k, v in state.items() if k.startswith("encoder_q.")}
    layers = 1 if "fc.weight" in query else 2  # of v1, whose head is one Linear, and of v2
    architecture, _ = recognise({k: v for k, v in query.items() if not k.startswith("fc.")})
    model = MoCoV2(
        build_encoder(architecture),
        architecture.num_features,
        out=hyper["dim"],
        queue=hyper["queue"],
        momentum=hyper["key_momentum"],
        temperature=hyper["temperature"],
        projector_layers=layers,
    )
    for ours, theirs in (("", "encoder_q."), ("key_", "encoder_k.")):
        part = {k.removeprefix(theirs): v for k, v in state.items() if k.startswith(theirs)}
        head = {k.removeprefix("fc."): v for k, v in part.items() if k.startswith("fc.")}
        trunk = {k: v for k, v in part.items() if not k.startswith("fc.")}
        model.get_submodule(f"{ours}encoder").load_state_dict(recognise(trunk)[1])
        model.get_submodule(f"{ours}projector").load_state_dict(sequential(head))
    model.double()
    model.queue.copy_(state["queue"])
    model.queue_pointer.copy_(state["queue_ptr"][0])
    return model


def test_mocov1_trajectory(mocov1_group: Path) -> None:
    test_mocov2_trajectory(mocov1_group)


def test_mocov2_trajectory(mocov2_group: Path) -> None:
    hyper = json.loads(mocov2_group.with_suffix(".json").read_text())
    data = np.load(mocov2_group.with_suffix(".npz"))
    model = mocov2_from(mocov2_group.with_name(mocov2_group.name + ".init.pth.tar"), hyper)
    optimiser = training.engine.optim.sgd(model, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"])
    optimiser.param_groups[0]["lr"] = hyper["learning_rate"]
    errors, queue = RelativeErrors(torch.float64), RelativeErrors(torch.float64)
    steps = len(data["loss"])
    assert steps, "a trajectory without steps"
    for i in range(steps):
        info = StepInfo(i, steps, 0, 0.0)
        model.before_step(info)
        loss = model([images(data["view_query"][i]), images(data["view_key"][i])])["loss"]
        errors.add(f"step {i}", loss, np.asarray(data["loss"][i]))
        optimiser.zero_grad()
        loss.backward()
        model.before_update(info)
        optimiser.step()
        model.after_step(info)
    errors.require(1e-9, [f"step {i}" for i in range(steps)])
    queue.add("queue", model.queue, data["queue_after"])
    queue.require(1e-7, ["queue"])
    assert int(model.queue_pointer) == int(data["queue_pointer"])


# ---------------------------------------------------------------- stored statistics, all image sizes


def final(group: Path, suffix: str) -> Path:
    """Return the checkpoint after the last step. Skip a group that has neither the checkpoint nor its outputs."""
    path = group.with_name(f"{group.name}.final{suffix}")
    if not path.exists() and not any(key.startswith("eval_") for key in np.load(group.with_suffix(".npz"))):
        pytest.skip(f"{group.name} has no final checkpoint")
    return path


def evaluate(model: BYOL | SimSiam, data: np.lib.npyio.NpzFile, dtype: torch.dtype, limit: float) -> None:
    model = model.to(dtype).eval()
    errors = RelativeErrors(dtype)
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
    errors.require(limit, [f"{part} {size}" for part in ("embedding", "projection", "prediction") for size in sizes])


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
