"""Training runs in the official file layouts, with settings that no shipped golden has; made from written-out formulas.

The comparisons must read these settings from the file: PIRL's MLP heads, InfoNCE and unequal weights, and other numbers
of steps and images.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_infomin
import test_local_aggregation
import test_pirl
import torch
from bank_checks import images
from official_files import narrow, network, under
from torch import Tensor, nn

from zoo.models.key_mapping import to_torchvision

STEPS, BATCH, DIM, N = 4, 5, 6, 30
SGD = {"learning_rate": 0.03, "momentum": 0.8, "weight_decay": 3e-3}
HYPER: dict[str, Any] = {"dim": DIM, "images": N, "batch": BATCH, "steps": STEPS, "blocks": [1, 1, 1, 1], **SGD}


def data(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What the trajectories begin with: pictures as bytes, and rows of the bank."""
    sizes = {"view": (BATCH,), "view_key": (BATCH,), "patches": (BATCH, 9)}
    pictures = {name: rng.integers(0, 256, (STEPS, *size, 20, 20, 3), dtype=np.uint8) for name, size in sizes.items()}
    index = np.stack([rng.permutation(N)[:BATCH] for _ in range(STEPS)])
    return {**pictures, "index": index, "eval_image": rng.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)}


def mlp(dim: int, *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, DIM), *more)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def cross_entropy(scores: Tensor, T: float) -> Tensor:
    return -(scores / T).log_softmax(1)[:, 0].mean()


def optimiser(modules: list[nn.Module], *, vectors_decay: bool) -> torch.optim.SGD:
    params = [p for module in modules for p in module.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in params if p.ndim > 1]},
        {"params": [p for p in params if p.ndim == 1]},
    ]
    groups[1]["weight_decay"] = SGD["weight_decay"] if vectors_decay else 0.0
    return torch.optim.SGD(groups, lr=SGD["learning_rate"], momentum=SGD["momentum"], weight_decay=SGD["weight_decay"])


def save(folder: Path, hyper: dict[str, Any], arrays: dict[str, Any], checkpoint: Any) -> Path:
    group = folder / "other"
    group.with_suffix(".json").write_text(json.dumps(hyper))
    np.savez(group.with_suffix(".npz"), **{k: np.asarray(v) for k, v in arrays.items()})
    torch.save(checkpoint, folder / "other.init.pth")
    return group


def named(encoder: nn.Module) -> dict[str, Tensor]:
    state = to_torchvision(encoder.state_dict())
    assert state is not None
    return {k: v.clone() for k, v in state.items()}


def floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a checkpoint holds them."""
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def rounded(module: nn.Module) -> None:
    """Let a module have the values of its checkpoint."""
    module.load_state_dict(floats(module.state_dict()))


def joined(x: Tensor) -> Tensor:
    return x.reshape(BATCH, 9 * DIM)


def evaluate(encoder: nn.Module, head: nn.Module, arrays: dict[str, Any]) -> None:
    encoder.eval()
    with torch.no_grad():
        arrays["eval_embedding"] = encoder(images(arrays["eval_image"]))
        arrays["eval_projection"] = unit(head(arrays["eval_embedding"]))
    encoder.train()


def update(optim: torch.optim.Optimizer, terms: list[Tensor], weight: float, losses: list[list[float]]) -> None:
    loss = (1 - weight) * terms[0] + weight * terms[1]
    losses.append([float(value.detach()) for value in (*terms, loss)])
    optim.zero_grad()
    loss.backward()
    optim.step()


@pytest.mark.parametrize("code", ["vissl", "pycontrast"])
def test_pirl_with_mlp_heads_infonce_and_unequal_weights(tmp_path: Path, code: str) -> None:
    rng, vissl = np.random.default_rng(1), code == "vissl"
    torch.manual_seed(2)
    encoder = network(narrow([1, 1, 1, 1])).module.double()
    last = [nn.ReLU()] if vissl else []
    head, fc1, fc2 = mlp(256).double(), mlp(256, *last).double(), nn.Linear(9 * DIM, DIM).double()
    for part in (head, fc1, fc2):
        rounded(part)
    memory = unit(torch.randn(N, DIM)).double()
    weight, T, m, arrays = 0.3, 0.2, 0.8, data(rng)
    heads = {name: floats(part.state_dict()) for name, part in (("image", head), ("fc1", fc1), ("fc2", fc2))}
    trunk = floats(named(encoder))
    hyper = HYPER | {"negatives": 7, "temperature": T, "memory_momentum": m}
    if vissl:
        state = under(heads["fc1"], "0.0.clf.") | under(heads["fc2"], "0.2.clf.0.") | under(heads["image"], "1.0.clf.")
        model = {"trunk": under(trunk, "_feature_blocks."), "heads": state}
        checkpoint: Any = {
            "classy_state_dict": {"base_model": {"model": model}},
            "loss": {"nce_average.memory": memory.float()},
        }
        hyper |= {
            "method": "pirl",
            "loss_type": "cross_entropy",
            "loss_weights": [weight, 1 - weight],
            "mlp_head": True,
        }
    else:
        state = under(trunk, "encoder.") | under(heads["image"], "head.")
        state |= under(heads["fc1"], "head_jig.fc1.") | under(heads["fc2"], "head_jig.fc2.")
        checkpoint = {"model": under(state, "module."), "contrast": {"memory": memory.float()}}
        hyper |= {"method": "pirl_pycontrast", "head": "mlp", "beta": weight}
    evaluate(encoder, head, arrays)
    orders = np.stack([[rng.permutation(9) for _ in range(BATCH)] for _ in range(STEPS)])
    drawn = rng.integers(0, N, (STEPS, 2, BATCH, 8) if vissl else (STEPS, BATCH, 8))
    drawn[..., 0] = arrays["index"][:, None] if vissl else arrays["index"]
    arrays |= {"permutations": orders, "negatives": drawn}
    optim, losses = optimiser([encoder, head, fc1, fc2], vectors_decay=not vissl), []
    for step in range(STEPS):
        view, patches = images(arrays["view"][step]), images(arrays["patches"][step]).flatten(0, 1)
        rows, draws = torch.tensor(arrays["index"][step]), torch.tensor(drawn[step])
        if vissl:  # patches first, which come permuted
            f_patches = unit(fc2(joined(fc1(encoder(patches)))))
            f = unit(head(encoder(view)))
        else:
            f = unit(head(encoder(view)))
            x = fc1(encoder(patches)).view(BATCH, 9, DIM)
            x = torch.stack([x[b, torch.tensor(orders[step][b])] for b in range(BATCH)])
            f_patches = unit(fc2(joined(x)))
        terms = [
            cross_entropy((memory[d] * v[:, None]).sum(-1), T)
            for v, d in ((f, draws[1] if vissl else draws), (f_patches, draws[0] if vissl else draws))
        ]
        memory[rows] = unit(m * memory[rows] + (1 - m) * f.detach())
        update(optim, terms, weight, losses)
    names = ("image_head", "patch_head") if vissl else ("head_0", "head_jig_fc2")
    arrays |= {f"final_{n}_weight": w[:4].detach() for n, w in zip(names, (head[0].weight, fc2.weight), strict=True)}
    arrays |= {"losses": np.array(losses)[:, :2], "loss": np.array(losses)[:, 2], "memory_after": memory}
    test_pirl.require_trajectory(save(tmp_path, hyper, arrays, checkpoint))


def test_infomin_with_another_beta_and_more_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    encoder = network(narrow([1, 1, 1, 1])).module.double()
    head, fc1, fc2 = mlp(256).double(), mlp(256).double(), nn.Linear(9 * DIM, DIM).double()
    for part in (head, fc1, fc2):
        rounded(part)
    key = nn.Sequential(copy.deepcopy(encoder), copy.deepcopy(head)).requires_grad_(False).train()
    queue, beta, T, a, arrays = unit(torch.randn(12, DIM)).float().double(), 0.3, 0.2, 0.8, data(rng)
    state = under(floats(named(encoder)), "encoder.") | under(floats(head.state_dict()), "head.")
    branch = under(floats(fc1.state_dict()), "head_jig.fc1.") | under(floats(fc2.state_dict()), "head_jig.fc2.")
    checkpoint = {"model": under(state | branch, "module."), "model_ema": state, "contrast": {"memory": queue.float()}}
    hyper = HYPER | {
        "method": "infomin",
        "head": "mlp",
        "negatives": 12,
        "temperature": T,
        "key_momentum": a,
        "beta": beta,
    }
    evaluate(encoder, head, arrays)
    orders = np.stack([[rng.permutation(9) for _ in range(BATCH)] for _ in range(STEPS)])
    arrays |= {"permutations": orders, "shuffle": np.stack([rng.permutation(BATCH) for _ in range(STEPS)])}
    optim, losses, pointer = optimiser([encoder, head, fc1, fc2], vectors_decay=True), [], 0
    for step in range(STEPS):
        views = {name: images(arrays[name][step]) for name in ("view", "view_key", "patches")}
        q = unit(head(encoder(views["view"])))
        x = fc1(encoder(views["patches"].flatten(0, 1))).view(BATCH, 9, DIM)
        x = torch.stack([x[b, torch.tensor(orders[step][b])] for b in range(BATCH)])
        k = unit(key(views["view_key"]))
        features = (q, unit(fc2(joined(x))))
        terms = [cross_entropy(torch.cat([(f * k).sum(1, keepdim=True), f @ queue.T.clone()], 1), T) for f in features]
        for k_of in k[torch.tensor(arrays["shuffle"][step])]:
            queue[pointer], pointer = k_of, (pointer + 1) % len(queue)
        update(optim, terms, beta, losses)
        for p, mine in zip(key.parameters(), [*encoder.parameters(), *head.parameters()], strict=True):
            p.copy_(a * p + (1 - a) * mine.detach())
    finals = {"head_0": head[0], "head_jig_fc2": fc2, "ema_head_0": key[1][0]}
    arrays |= {f"final_{n}_weight": layer.weight[:4].detach() for n, layer in finals.items()}
    arrays |= {"losses": np.array(losses)[:, :2], "loss": np.array(losses)[:, 2], "memory_after": queue}
    test_infomin.test_trajectory(save(tmp_path, hyper, arrays, checkpoint))


@pytest.mark.parametrize("case", ["la", "ir"])
def test_local_aggregation_with_another_temperature_and_momentum(tmp_path: Path, case: str) -> None:
    rng, T, m, K = np.random.default_rng(4), 0.2, 0.8, 9
    memory = torch.tensor(rng.normal(size=(N, DIM)))
    labels = rng.integers(0, 4, (2, N)) if case == "la" else None
    arrays = {k: v for k, v in data(rng).items() if k == "index"} | {"memory0": memory.clone()}
    arrays |= {"output": rng.normal(size=(STEPS, BATCH, DIM)), "ir_negatives": rng.integers(0, N, (STEPS, BATCH, K))}
    arrays |= {"la_labels": labels} if labels is not None else {}
    found: dict[str, list[Any]] = {"loss": [], "grad": [], "memory": []}
    for step in range(STEPS):
        raw, rows = torch.tensor(arrays["output"][step]).requires_grad_(), arrays["index"][step]
        f, values = unit(raw), []
        for i, row in enumerate(rows):
            p = (memory @ f[i] / T).exp()
            if labels is None:
                noise, Z = K / N, 2876934.2 / 1281167 * N
                right, wrong = p[row] / Z, p[arrays["ir_negatives"][step][i]] / Z
                value = (right / (right + noise + 1e-7)).log() + (noise / (wrong + noise + 1e-7)).log().sum()
            else:
                nearest = p.argsort(descending=True)[:K]
                close = [j for j in nearest.tolist() if (labels[:, j] == labels[:, row]).any()]
                value = (p[close].sum() / p[nearest].sum() + 1e-7).log()
            values.append(-value)
        loss = torch.stack(values).mean()
        loss.backward()
        memory[rows] = unit(m * memory[rows] + (1 - m) * f.detach())
        for name, value in (("loss", loss.detach()), ("grad", raw.grad), ("memory", memory.clone())):
            found[name].append(np.asarray(value))
    arrays |= {f"{case}_{name}": np.stack(values) for name, values in found.items()}
    hyper = {"dim": DIM, "images": N, "background": K, "negatives": K, "clusterings": 2, "steps": STEPS}
    group = save(tmp_path, hyper | {"temperature": T, "memory_momentum": m}, arrays, None)
    test_local_aggregation.test_steps_against_the_paper_s_code(group.with_suffix(".npz"), case)
