"""Write ``barlowtwins_r14_free.*`` and ``vicreg_r14_free.*`` with the official codes of Barlow Twins and VICReg.

    git clone https://github.com/facebookresearch/barlowtwins
    git clone https://github.com/facebookresearch/vicreg
    pip install torch torchvision scikit-image
    python tests/goldens/make_two_views.py --barlowtwins barlowtwins --vicreg vicreg --out tests/goldens

Runs the networks, losses, LARS and schedules of ``main.py`` (8e8d284) and ``main_vicreg.py`` (4e12602) on a CPU in
float64, from parameters that are rounded to float32. The encoder, its pictures and what is left out are those of
``make_simsiam_mocov2.py``; so VICReg's own ResNet, which splits the stem's padding in two, is not part of it. Barlow
Twins writes the encoder's 2048 features into its code: the projector's first Linear is made anew for fewer.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import make_simsiam_mocov2 as shared
import numpy as np
import torch
import torchvision
from torch import Tensor, nn

STEPS, FIRST_STEP, EPOCHS, STEPS_OF_AN_EPOCH = 4, 40, 20, 10  # within the warm-up of 10 epochs
HEAD = "48-48-32"
FEATURES = 2048 // shared.WIDTH


def load(path: Path) -> ModuleType:
    """Import a script, whose neighbours it imports by their bare names."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def narrow() -> shared.NarrowResNet:
    network = shared.NarrowResNet(num_classes=1, zero_init_residual=True)
    network.fc = nn.Identity()
    return network


def losses_of(loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, np.ndarray]:
    """Two cases of features, with fewer and with more dimensions than images: loss and gradients."""
    found: dict[str, np.ndarray] = {}
    for case, (count, size) in {"a": (12, 6), "b": (12, 20)}.items():
        z1 = 0.7 * torch.randn(count, size, dtype=torch.float64) + 0.1
        z2 = z1 + 0.5 * torch.randn(count, size, dtype=torch.float64)
        leaves = [z1.requires_grad_(), z2.detach().requires_grad_()]
        value = loss(*leaves)
        value.backward()
        found[f"loss_{case}"] = value.detach().numpy()
        for n, z in enumerate(leaves, 1):
            found[f"loss_{case}_z{n}"] = z.detach().numpy()
            found[f"loss_{case}_grad_z{n}"] = z.grad.numpy()
    return found


def make(
    model: Any,
    optimizer: torch.optim.Optimizer,
    adjust: Callable[[int], None],
    hyper: dict[str, object],
    data: dict[str, np.ndarray],
    out: Path,
) -> None:
    """Train some steps; ``adjust`` sets the rates of a step."""
    torch.save({"epoch": 0, "model": shared.state(model), "optimizer": {}}, f"{out}.init.pth")
    model.double().eval()
    view1, view2 = shared.views(9), shared.views(10)
    with torch.no_grad():
        embedding = model.backbone(shared.normalised_bytes(view1[0, :3]))
        data |= {"eval_image": view1[0, :3], "eval_embedding": embedding.numpy()}
        data["eval_projection"] = model.projector(embedding).numpy()
    model.train()
    losses, rates = [], []
    for step in range(STEPS):
        adjust(FIRST_STEP + step)
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        loss = model.forward(shared.normalised_bytes(view1[step]), shared.normalised_bytes(view2[step]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    data |= {"view1": view1, "view2": view2, "loss": np.array(losses), "learning_rate": np.array(rates)}
    data["final_projector_weight"] = model.projector[6].weight.detach().numpy()
    schedule = {"first_step": FIRST_STEP, "warmup_steps": 10 * STEPS_OF_AN_EPOCH}
    schedule["total_steps"] = EPOCHS * STEPS_OF_AN_EPOCH
    shared.write(out, hyper | schedule | {"batch": shared.BATCH}, data)
    print(hyper["method"], losses)


def make_barlow_twins(code: ModuleType, out: Path) -> None:
    torch.manual_seed(0)
    args = SimpleNamespace(projector=HEAD, lambd=0.0051, batch_size=12, epochs=EPOCHS)
    args.learning_rate_weights, args.learning_rate_biases = 0.2, 0.0048  # its defaults
    torchvision.models.resnet50 = lambda zero_init_residual: narrow()
    small = code.BarlowTwins(args).double()
    small.backbone = small.projector = nn.Identity()

    def loss(z1: Tensor, z2: Tensor) -> Tensor:
        small.bn = nn.BatchNorm1d(z1.shape[1], affine=False).double()
        return small(z1, z2)

    data = losses_of(loss)
    args.batch_size = shared.BATCH
    model = code.BarlowTwins(args)
    model.projector[0] = nn.Linear(FEATURES, int(HEAD.split("-")[0]), bias=False)
    shared.unlike_a_new_network(model)
    # main.py, lines 90-99
    parameters = [{"params": [p for p in model.parameters() if (p.ndim == 1) is is_bias]} for is_bias in (False, True)]
    lars = code.LARS(parameters, lr=0, weight_decay=1e-6, weight_decay_filter=True, lars_adaptation_filter=True)
    hyper = {"method": "barlowtwins", "projector": HEAD, "lambd": args.lambd}
    loader = range(STEPS_OF_AN_EPOCH)
    make(model, lars, lambda step: code.adjust_learning_rate(args, lars, loader, step), hyper, data, out)


def make_vicreg(code: ModuleType, out: Path) -> None:
    torch.manual_seed(0)
    args = SimpleNamespace(mlp=HEAD, arch="narrow", batch_size=12, epochs=EPOCHS, base_lr=0.2)
    args.sim_coeff, args.std_coeff, args.cov_coeff = 25.0, 25.0, 1.0  # its defaults
    code.resnet.narrow = lambda zero_init_residual: (narrow(), FEATURES)
    small = code.VICReg(args).double()
    small.backbone = small.projector = nn.Identity()

    def loss(z1: Tensor, z2: Tensor) -> Tensor:
        small.num_features = z1.shape[1]
        return small(z1, z2)

    data = losses_of(loss)
    args.batch_size = shared.BATCH
    model = code.VICReg(args)
    shared.unlike_a_new_network(model)
    # main_vicreg.py, lines 112-118
    exclude = code.exclude_bias_and_norm
    lars = code.LARS(
        model.parameters(), lr=0, weight_decay=1e-6, weight_decay_filter=exclude, lars_adaptation_filter=exclude
    )
    loader = range(STEPS_OF_AN_EPOCH)
    hyper = {"method": "vicreg", "expander": HEAD}
    make(model, lars, lambda step: code.adjust_learning_rate(args, lars, loader, step), hyper, data, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--barlowtwins", type=Path, required=True, help="clone of facebookresearch/barlowtwins")
    parser.add_argument("--vicreg", type=Path, required=True, help="clone of facebookresearch/vicreg")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shared.STEPS = STEPS
    barlow, vicreg = load(args.barlowtwins / "main.py"), load(args.vicreg / "main_vicreg.py")
    shared.one_process(lambda: make_barlow_twins(barlow, args.out / "barlowtwins_r14_free"))
    shared.one_process(lambda: make_vicreg(vicreg, args.out / "vicreg_r14_free"))
