"""PIRL against the outputs of the author's code and of PyContrast, and against its definition."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bank_checks import below, give_draws, group_files, images, read_official, train_steps, trunk
from relative_errors import RelativeErrors
from torch import nn

from training.methods.jigsaw import PATCHES, JigsawHead, cut_patches, draw_puzzle, patch_size
from training.methods.memory_bank import MemoryBank
from training.methods.pirl import PIRL
from training.methods.similarity import unit

EPS = float(np.finfo(np.float32).eps)


def bank_of(h: dict[str, Any], **options: Any) -> MemoryBank:
    momentum = h["memory_momentum"] if "memory_momentum" in h else h["momentum"]
    settings = {"negatives": h["negatives"], "temperature": h["temperature"], "momentum": momentum}
    return MemoryBank(h["images"], h["dim"], **settings | options).double()


@pytest.mark.parametrize("case", ["nce", "cross_entropy"])
def test_losses_against_the_author_s_code(pirl_ops: Path, case: str) -> None:
    """Of embeddings that are not normalised, with draws of their own, and Z from the patches' term."""
    data, h = np.load(pirl_ops), json.loads(pirl_ops.with_suffix(".json").read_text())[case]
    bank = bank_of(h, loss="nce" if case == "nce" else "softmax", eps=EPS)
    bank.memory.copy_(torch.tensor(data[f"{case}_memory0"]))
    model = PIRL(nn.Identity(), 1, bank, code="vissl", weight=h["weights"][0]).double()
    model.projector = nn.Identity()  # type: ignore[assignment]
    model.jigsaw.forward = lambda features, order: features  # type: ignore[method-assign]
    model.puzzle = lambda crop, rows: (crop[:, None], rows)  # type: ignore[method-assign]
    errors, names = RelativeErrors(torch.float64), []
    for step in range(h["steps"]):
        leaves = [torch.tensor(data[f"{case}_embedding_{w}"][step]).requires_grad_() for w in ("images", "patches")]
        give_draws(bank, list(data[f"{case}_negatives"][step]))
        loss = sum(model(leaves, None, torch.tensor(data[f"{case}_index"][step])).values())
        loss.backward()
        model.after_step(None)  # type: ignore[arg-type]
        ours = {
            "loss": loss,
            "grad_images": leaves[0].grad,
            "grad_patches": leaves[1].grad,
            "memory": bank.memory.clone(),
        }
        for what, value in (ours | ({"Z": bank.Z.clone()} if case == "nce" else {})).items():
            names.append(f"{what} {step}")
            errors.add(names[-1], value, data[f"{case}_{what}"][step])
    errors.require(1e-9, names)


def test_bank_against_pycontrast(pycontrast_ops: Path) -> None:
    data, h = np.load(pycontrast_ops), json.loads(pycontrast_ops.with_suffix(".json").read_text())
    bank, errors, names = bank_of(h, loss="softmax"), RelativeErrors(torch.float64), []
    bank.memory.copy_(torch.tensor(data["bank_memory0"]))
    for step in range(h["steps"]):
        rows, drawn = (torch.tensor(data[f"bank_{what}"][step]) for what in ("index", "negatives"))
        for kind in ("", "_jigsaw"):
            f = torch.tensor(data[f"bank_features{kind}"][step]).requires_grad_()
            term = bank.loss(f, rows, drawn)
            (0.5 * term).backward()
            names += [f"loss{kind} {step}", f"grad{kind} {step}"]
            errors.add(names[-2], term, data[f"bank_loss{kind}"][step])
            errors.add(names[-1], f.grad, data[f"bank_grad{kind}"][step])
            if not kind:
                bank.remember(f, rows)
        bank.update()
        names.append(f"memory {step}")
        errors.add(names[-1], bank.memory.clone(), data["bank_memory"][step])
    errors.require(1e-9, names)


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("mlp", 2)])
def test_head_against_pycontrast(pycontrast_ops: Path, kind: str, layers: int) -> None:
    data = {k.removeprefix(f"jigsaw_{kind}_"): v for k, v in np.load(pycontrast_ops).items()}
    head = JigsawHead(data["input"].shape[1], data["output"].shape[1], layers=layers).double()
    state = {k: torch.tensor(v) for k, v in data.items() if k.startswith(("fc1.", "fc2."))}
    head.load_state_dict({k.replace("fc1.", "fc1.0.") if layers == 1 else k: v for k, v in state.items()})
    x = torch.tensor(data["input"]).requires_grad_()
    output = unit(head(x, torch.tensor(data["permutations"])))
    (output * torch.tensor(data["weights_of_sum"])).sum().backward()
    errors = RelativeErrors(torch.float64)
    errors.add("output", output, data["output"])
    errors.add("grad", x.grad, data["grad_input"])
    errors.require(1e-9, ["output", "grad"])


@pytest.mark.parametrize("code", ["pycontrast", "vissl"])
def test_patches_of_the_official_codes(infomin_ops: Path, code: str) -> None:
    """Every ninth pixel of the patches of one image; VISSL walks the grid column by column."""
    data = np.load(infomin_ops)
    image = torch.tensor(data["jigsaw_image"]).movedim(-1, 0)[None]
    if code == "pycontrast":
        offsets = [data[f"jigsaw_pycontrast_offsets_{axis}"].reshape(-1) for axis in ("row", "column")]
    else:  # [0] horizontal, [1] vertical, indexed [column, row]
        offsets = [data["jigsaw_vissl_offsets"][axis].T.reshape(-1) for axis in (1, 0)]
    drawn = torch.tensor(np.stack(offsets, -1)).long()[None]
    ours = cut_patches(image, drawn)[0].movedim(1, -1)
    assert ours.shape == (9, 64, 64, 3)
    order = range(9) if code == "pycontrast" else [3 * (n % 3) + n // 3 for n in range(9)]
    assert np.array_equal(ours[list(order), ::9, ::9].numpy(), data[f"jigsaw_{code}_patches"])


def pirl_of(group: Path) -> tuple[PIRL, dict[str, Any], Any]:
    """Build PIRL from the checkpoint of either code; its heads have one layer or two."""
    hyper, data, init = group_files(group)
    loaded, vissl = read_official(init), hyper["method"] == "pirl"
    if vissl:
        parts = loaded["classy_state_dict"]["base_model"]["model"]
        encoder, dim = trunk(below(parts["trunk"], "_feature_blocks."))
        heads = parts["heads"]
        image, fc1, fc2 = below(heads, "1.0.clf."), below(heads, "0.0.clf."), below(heads, "0.2.clf.0.")
        memory = loaded["loss"]["nce_average.memory"]
        weight, other = hyper.get("loss_weights", (0.5, 0.5))  # of patches, of images
        assert weight + other == pytest.approx(1)
    else:
        state = below(loaded["model"], "module.")
        encoder, dim = trunk(below(state, "encoder."))
        image, fc2 = below(state, "head."), below(state, "head_jig.fc2.")
        fc1 = below(state, "head_jig.fc1.")
        fc1 = {k if "." in k else f"0.{k}": v for k, v in fc1.items()}
        memory, weight = loaded["contrast"]["memory"], hyper["beta"]
    nce = vissl and hyper.get("loss_type", "nce") == "nce"
    bank = bank_of(hyper, loss="nce" if nce else "softmax", eps=EPS if vissl else 1e-7)
    code, layers = "vissl" if vissl else "pycontrast", len(image) // 2
    model = PIRL(encoder, dim, bank, code=code, weight=weight, layers=layers)
    model.projector.load_state_dict(image)
    model.jigsaw.fc1.load_state_dict(fc1)
    model.jigsaw.fc2.load_state_dict(fc2)
    model.double()
    bank.memory.copy_(memory)
    return model, hyper, data


def require_trajectory(group: Path) -> None:
    model, hyper, data = pirl_of(group)
    vissl = model.code == "vissl"
    errors, after = RelativeErrors(torch.float64), RelativeErrors(torch.float64)
    model.eval()
    with torch.no_grad():
        embedding = model.encoder(images(data["eval_image"]))
        errors.add("embedding", embedding, data["eval_embedding"])
        z = model.projector(embedding)
        # the author's code normalises in the loss
        length = np.linalg.norm(data["eval_projection"], axis=1)
        errors.add("projection", unit(z) if np.allclose(length, 1) else z, data["eval_projection"])
    steps, batch = data["index"].shape
    orders = iter([torch.arange(9).expand(batch, 9)] * steps if vissl else torch.tensor(data["permutations"]))
    model.puzzle = lambda crop, rows: (crop, next(orders))  # type: ignore[method-assign]
    give_draws(model.bank, [d for step in data["negatives"] for d in (step if vissl else [step])])
    inputs = [[images(view), images(p)] for view, p in zip(data["view"], data["patches"], strict=True)]
    for step, losses in train_steps(model, hyper, data, inputs):
        errors.add(f"loss {step}", sum(losses.values()), np.asarray(data["loss"][step]))
        if not vissl:
            image, patches = data["losses"][step] * (1 - hyper["beta"], hyper["beta"])
            errors.add(f"image {step}", losses["loss"], image)
            errors.add(f"patches {step}", losses["loss_patches"], patches)
    parts = ["loss"] if vissl else ["loss", "image", "patches"]
    errors.require(1e-9, ["embedding", "projection", *(f"{part} {n}" for part in parts for n in range(steps))])
    after.add("memory", model.bank.memory, data["memory_after"])
    names = ("image_head", "patch_head") if vissl else ("head_0", "head_jig_fc2")
    for name, weight in zip(names, (model.projector[0].weight, model.jigsaw.fc2.weight), strict=True):
        after.add(name, weight[:4], data[f"final_{name}_weight"])
    after.require(1e-7, ["memory", *names])
    if model.bank.kind == "nce":
        assert float(model.bank.Z) == pytest.approx(float(data["Z"]), rel=1e-9)


def test_trajectory(pirl_group: Path) -> None:
    require_trajectory(pirl_group)


def test_pycontrast_trajectory(pirl_pycontrast_group: Path) -> None:
    require_trajectory(pirl_pycontrast_group)


# ---------------------------------------------------------------- without the goldens


def test_patches_lie_in_their_cells_and_cover_all_places() -> None:
    crop = torch.arange(255 * 255, dtype=torch.float64).view(1, 1, 255, 255).expand(1, 3, 255, 255)
    offsets = torch.zeros(1, 9, 2, dtype=torch.int64)
    offsets[0, 5] = torch.tensor([2, 21])
    patches = cut_patches(crop, offsets)
    assert patches.shape == (1, 9, 3, 64, 64)
    corner = int(patches[0, 5, 0, 0, 0])
    assert divmod(corner, 255) == (85 + 2, 2 * 85 + 21)  # cell 5: second row, third column
    assert int(patches[0, 5, 0, 63, 63]) == corner + 63 * 255 + 63
    assert (patch_size(255), patch_size(48)) == (64, 12)
    rows = torch.arange(4000)
    drawn, orders = draw_puzzle(rows, 22, seed=0, step=0)
    assert (int(drawn.min()), int(drawn.max())) == (0, 21)
    assert torch.equal(orders.sort(1).values, torch.arange(9).expand(4000, 9))
    assert len({tuple(o) for o in orders.tolist()}) > 3900  # of 9! = 362 880
    again, _ = draw_puzzle(rows[7:8], 22, seed=0, step=0)
    assert torch.equal(again[0], drawn[7])
    assert not torch.equal(draw_puzzle(rows, 22, seed=0, step=1)[0], drawn)


def test_the_head_joins_patches_in_their_order() -> None:
    """Of identities a permutation is seen in the output; all orders of three patches differ."""
    head = JigsawHead(2, 1).double()
    with torch.no_grad():
        head.fc1[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        head.fc1[0].bias.zero_()
        head.fc2.weight.copy_(10.0 ** torch.arange(PATCHES, dtype=torch.float64)[None])
        head.fc2.bias.zero_()
    features = torch.stack([torch.arange(9.0), torch.zeros(9)], 1).double()
    for order in list(permutations(range(9)))[:50]:
        expected = sum(patch * 10**place for place, patch in enumerate(order))
        assert float(head(features, torch.tensor([order])).detach()) == pytest.approx(expected)


@pytest.mark.parametrize(("code", "places"), [("vissl", 21), ("pycontrast", 22)])
def test_both_terms_their_weights_and_what_the_bank_takes(code: str, places: int) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6))
    bank = MemoryBank(10, 4, negatives=5, loss="softmax")
    model = PIRL(encoder, 6, bank, code=code, weight=0.25).double()
    view, crop, rows = torch.randn(3, 3, 16, 16).double(), torch.randn(3, 3, 255, 255).double(), torch.tensor([1, 7, 4])
    before = bank.memory.clone()
    losses = model([view, crop], None, rows)
    offsets, order = draw_puzzle(rows, places, seed=0, step=0)
    patches = cut_patches(crop, offsets)
    per_patch = model.jigsaw.fc1(encoder(patches.flatten(0, 1))).view(3, 9, 4)
    joined = torch.stack([torch.cat([per_patch[n, p] for p in order[n]]) for n in range(3)])
    features = {"loss": model.projector(encoder(view)), "loss_patches": model.jigsaw.fc2(joined)}
    draws = {"loss": bank.draw(rows, 0, term=int(code == "vissl")), "loss_patches": bank.draw(rows, 0)}
    for name, weight in (("loss", 0.75), ("loss_patches", 0.25)):
        f = nn.functional.normalize(features[name]).detach().numpy()
        s = np.einsum("bd,bkd->bk", f, before[draws[name]].numpy()) / 0.07
        expected = -weight * np.mean(s[:, 0] - np.log(np.exp(s).sum(1)))
        assert float(losses[name].detach()) == pytest.approx(expected, rel=1e-9)
    model.after_step(None)  # type: ignore[arg-type]
    mixed = 0.5 * before[rows] + 0.5 * nn.functional.normalize(features["loss"].detach())
    assert torch.allclose(bank.memory[rows], nn.functional.normalize(mixed))


def test_vissl_decays_weights_alone() -> None:
    model = PIRL(nn.Linear(3, 6), 6, MemoryBank(10, 4, negatives=5))
    groups = model.parameter_groups(None)  # type: ignore[arg-type]
    assert groups is not None
    assert {p.ndim for p in groups[0]["params"]} == {2}  # type: ignore[attr-defined]
    assert groups[1]["weight_decay"] == 0.0
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))  # type: ignore[arg-type]
    other = PIRL(nn.Linear(3, 6), 6, MemoryBank(10, 4, negatives=5), code="pycontrast")
    assert other.parameter_groups(None) is None  # type: ignore[arg-type]
