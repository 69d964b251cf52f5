"""InstDisc against the official code's outputs, and against its formula written out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bank_checks import below, give_draws, group_files, images, read_official, train_steps, trunk
from relative_errors import RelativeErrors
from torch import Tensor, nn

from training.data.sampler import EpochSampler
from training.engine.schedules import learning_rate
from training.methods.instdisc import InstDisc
from training.methods.memory_bank import MemoryBank
from training.methods.similarity import unit
from training.recipes import table
from training.recipes.config import from_json, to_json
from zoo.errors import UserError


def test_bank_against_the_official_code(instdisc_ops: Path) -> None:
    """Scores, losses, gradients, Z and the bank after each step, with NCE and with the full softmax."""
    data, hyper = np.load(instdisc_ops), json.loads(instdisc_ops.with_suffix(".json").read_text())
    errors, names = RelativeErrors(torch.float64), []
    for case, h in hyper.items():
        if case == "source":
            continue
        options = {"negatives": h["negatives"], "temperature": h["temperature"], "momentum": h["momentum"]}
        bank = MemoryBank(h["images"], h["dim"], **options).double()
        bank.memory.copy_(torch.tensor(data[f"{case}_memory0"]))
        for step in range(h["steps"]):
            f = torch.tensor(data[f"{case}_features"][step]).requires_grad_()
            rows = torch.tensor(data[f"{case}_index"][step])
            drawn = torch.tensor(data[f"{case}_negatives"][step]) if h["negatives"] else rows[:, None]
            loss = bank.loss(f, rows, drawn)
            loss.backward()
            bank.remember(f, rows)
            expected = {"loss": loss, "grad": f.grad}
            if h["negatives"]:
                expected |= {"Z": bank.Z, "output": bank.logits(f, drawn).exp() / bank.Z}
            else:
                expected["output"] = bank.logits(f, torch.arange(h["images"]).expand(len(f), -1))
            bank.update()
            for what, ours in (expected | {"memory": bank.memory}).items():
                names.append(f"{case} {what} {step}")
                errors.add(names[-1], ours.clone(), data[f"{case}_{what}"][step])
    errors.require(1e-9, names)


def test_trajectory(instdisc_group: Path) -> None:
    hyper, data, init = group_files(instdisc_group)
    state = below(read_official(init)["state_dict"], "module.")
    encoder, dim = trunk(state)
    bank = MemoryBank(
        hyper["images"],
        hyper["dim"],
        negatives=hyper["negatives"],
        momentum=hyper["memory_momentum"],
        temperature=hyper["temperature"],
    )
    model = InstDisc(encoder, dim, bank)
    model.projector[0].load_state_dict(below(state, "fc."))
    model.double()
    bank.memory.copy_(torch.tensor(data["memory0"]))
    if hyper["negatives"]:
        give_draws(bank, list(data["negatives"]))
    errors, after = RelativeErrors(torch.float64), RelativeErrors(torch.float64)
    model.eval()
    with torch.no_grad():
        embedding = model.encoder(images(data["eval_image"]))
        errors.add("embedding", embedding, data["eval_embedding"])
        errors.add("projection", nn.functional.normalize(model.projector(embedding)), data["eval_projection"])
    features: list[Tensor] = []
    model.projector.register_forward_hook(lambda module, inputs, output: features.append(unit(output)))
    steps = len(data["loss"])
    for step, losses in train_steps(model, hyper, data, [[images(view)] for view in data["view"]]):
        errors.add(f"step {step}", losses["loss"], data["loss"][step])
        if hyper["negatives"]:
            errors.add(f"Z {step}", bank.Z.clone(), data["Z"][step])
    of_steps = [f"{what} {n}" for what in ("step", "Z")[: 2 if hyper["negatives"] else 1] for n in range(steps)]
    errors.require(1e-9, ["embedding", "projection", *of_steps])
    after.add("memory", bank.memory, data["memory_after"])
    after.add("fc", model.projector[0].weight, data["final_fc_weight"])
    state = model.encoder.state_dict()
    conv1, bn1 = state["stem.conv.weight"], state["stem.norm.running_mean"]
    after.add("conv1", conv1, data["final_conv1_weight"])
    after.add("bn1", bn1, data["final_bn1_running_mean"])
    names = ["memory", "fc", "conv1", "bn1"]
    if "features" in data:
        after.add("features", torch.stack(features), data["features"])
        names.append("features")
    after.require(1e-7, names)


def test_pycontrast_s_rates(pycontrast_ops: Path) -> None:
    """Both of its schedules, by the recipes' settings."""
    data, sampler = np.load(pycontrast_ops), EpochSampler(256, 256, True)
    optim = table.find("instdisc_r50_in1k_200ep_pycontrast").optim
    stepwise = table.find("instdisc_r50_in1k_200ep").optim
    for epoch in range(200):
        for config, kind in ((optim, "cosine"), (stepwise, "step")):
            expected = data[f"learning_rate_{kind}_by_epoch"][epoch]
            assert learning_rate(config, epoch, sampler) == pytest.approx(expected, rel=1e-12)


def nce_by_hand(memory: np.ndarray, f: np.ndarray, drawn: np.ndarray, T: float, eps: float) -> tuple[float, float]:
    """Loss and Z of a first batch, row by row."""
    N, K = len(memory), drawn.shape[1] - 1
    e = np.exp(np.einsum("bd,bkd->bk", f, memory[drawn]) / T)
    Z = e.mean() * N
    total = 0.0
    for row in e / Z:
        total -= np.log(row[0] / (row[0] + K / N + eps))
        for p in row[1:]:
            total -= np.log((K / N) / (p + K / N + eps))
    return total / len(f), float(Z)


@pytest.mark.parametrize("kind", ["nce", "softmax", "all"])
def test_the_losses_are_the_papers(kind: str) -> None:
    rng = np.random.default_rng(0)
    memory, f = rng.normal(size=(20, 5)), rng.normal(size=(4, 5))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    rows = torch.tensor([3, 9, 0, 19])
    bank = MemoryBank(20, 5, negatives=0 if kind == "all" else 7, loss=kind if kind != "all" else "softmax").double()
    bank.memory.copy_(torch.tensor(memory))
    drawn = bank.draw(rows, step=2)
    assert drawn.shape == (4, 8 if kind != "all" else 1)
    assert torch.equal(drawn[:, 0], rows)
    ours = bank.loss(torch.tensor(f), rows, drawn)
    if kind == "nce":
        expected, Z = nce_by_hand(memory, f, drawn.numpy(), 0.07, 1e-7)
        assert float(bank.Z) == pytest.approx(Z, rel=1e-12)
        again = float(bank.loss(torch.tensor(f[::-1].copy()), rows, drawn))  # Z stays
        assert float(bank.Z) == pytest.approx(Z, rel=1e-12)
        assert again != pytest.approx(expected)
    else:
        candidates = np.arange(20)[None].repeat(4, 0) if kind == "all" else drawn.numpy()
        s = np.einsum("bd,bkd->bk", f, memory[candidates]) / 0.07
        right = rows.numpy() if kind == "all" else np.zeros(4, int)
        expected = -np.mean(s[np.arange(4), right] - np.log(np.exp(s).sum(1)))
    assert float(ours) == pytest.approx(expected, rel=1e-12)


def test_the_bank_takes_a_step_s_features_after_it_and_the_last_of_one_image() -> None:
    bank = MemoryBank(6, 3, negatives=2).double()
    before = bank.memory.clone()
    f = nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64))
    bank.remember(f[:3], torch.tensor([4, 1, 4]))
    bank.remember(f[3:], torch.tensor([0, 1]))
    assert torch.equal(bank.memory, before)
    bank.update()
    for row, feature in ((4, f[2]), (1, f[4]), (0, f[3])):
        mixed = 0.5 * before[row] + 0.5 * feature
        assert torch.allclose(bank.memory[row], mixed / mixed.norm(), rtol=1e-12)
    for row in (2, 3, 5):
        assert torch.equal(bank.memory[row], before[row])
    bank.eval()
    bank.remember(f, torch.arange(5))
    after = bank.memory.clone()
    bank.update()
    assert torch.equal(bank.memory, after)


def test_negatives_depend_on_seed_step_and_row_alone_and_cover_the_bank() -> None:
    bank, rows = MemoryBank(1000, 4, negatives=3000), torch.tensor([5, 7])
    drawn = bank.draw(rows, 3)
    assert torch.equal(drawn.flip(0), bank.draw(rows.flip(0), 3))
    assert not torch.equal(drawn, bank.draw(rows, 4))
    assert not torch.equal(drawn, bank.draw(rows, 3, term=1))
    assert not torch.equal(drawn[0, 1:], drawn[1, 1:])
    assert (drawn.min(), drawn.max()) == (0, 999)
    share = torch.bincount(drawn[0, 1:], minlength=1000).bool().double().mean()
    assert float(share) == pytest.approx(1 - np.exp(-3), abs=0.03)  # with replacement


@pytest.mark.parametrize(("start", "unit"), [("uniform", False), ("uniform_unit", True), ("normal_unit", True)])
def test_the_bank_at_the_start(start: str, unit: bool) -> None:
    torch.manual_seed(0)
    memory = MemoryBank(2000, 12, negatives=2, start=start).memory
    lengths = memory.norm(dim=1)
    assert bool((lengths - 1).abs().max() < 1e-6) is unit
    if not unit:
        assert float(memory.abs().max()) == pytest.approx((12 / 3) ** -0.5, rel=1e-2)
        assert float(lengths.square().mean()) == pytest.approx(1, rel=0.05)
    assert float(memory.mean()) == pytest.approx(0, abs=0.02)


def test_the_published_recipe_s_rates_and_what_an_older_version_reads() -> None:
    """LEM main.py: a tenth at epochs 120 and 160. Fields that say nothing are left out."""
    optim, sampler = table.find("instdisc_r50_in1k_200ep").optim, EpochSampler(256, 256, True)
    rates = [learning_rate(optim, epoch, sampler) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    assert from_json(to_json(table.find("instdisc_r50_in1k_200ep"))).optim.decay_start == 120
    assert "decay_start" not in to_json(table.find("supervised_r18_in1k_90ep"))["optim"]
    supervised = table.find("supervised_r18_in1k_90ep").optim
    assert [learning_rate(supervised, e, sampler) for e in (29, 30, 60)] == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": -1}, "negatives=-1 is out of range"),
        ({"bank_momentum": 1.5}, "bank_momentum=1.5 is out of range"),
        ({"loss": "nec"}, "loss=nec is not one of nce, softmax"),
        ({"bank_start": "zeros"}, "bank_start=zeros is not one of uniform"),
        (None, "needs the option 'bank_momentum'"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any] | None, message: str) -> None:
    recipe = table.find("instdisc_r10_cifar10_3ep")
    recipe = replace(recipe, options={} if options is None else {**recipe.options, **options})
    with pytest.raises(UserError, match=message) as caught:
        MemoryBank.check(recipe)
    assert "\n" not in str(caught.value)
