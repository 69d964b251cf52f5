"""CMC against the outputs of both official codes, and against its formula written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bank_checks import below, give_draws, group_files, images, read_official, train_steps
from PIL import Image
from relative_errors import RelativeErrors
from timm.models.resnet import Bottleneck, ResNet
from tiny_runs import add_tiny_architecture, tiny
from torch import Tensor, nn

import zoo
from training.engine import checkpoint
from training.methods import build_method
from training.methods.cmc import CMC, TwoLinears
from training.methods.memory_bank import MemoryBank
from training.recipes.config import to_json
from training.results.export import export
from zoo.export.export import export_onnx
from zoo.models.colour_split import SplitEncoder, convert_colours, rgb_to_lab, rgb_to_ycbcr, rgb_to_ydbdr
from zoo.models.fuse_bn import fold_batch_norms

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))[:2]
PARTS = ("l", "ab")


def banks(h: dict[str, Any], **options: Any) -> list[MemoryBank]:
    loss = "softmax" if h.get("softmax", True) else "nce"
    momentum = h["memory_momentum"] if "memory_momentum" in h else h["momentum"]
    settings = {"negatives": h["negatives"], "temperature": h["temperature"], "momentum": momentum, "loss": loss}
    return [MemoryBank(h["images"], h["dim"], **settings | options).double() for _ in range(2)]


def two_banks(data: Any, case: str, h: dict[str, Any], names: tuple[str, str]) -> RelativeErrors:
    """Losses, gradients with respect to the unit vectors, Z and banks of each step."""
    both, errors = banks(h), RelativeErrors(torch.float64)
    for bank, name in zip(both, names, strict=True):
        bank.memory.copy_(torch.tensor(data[f"{case}_memory0_{name}"]))
    for step in range(h["steps"]):
        drawn, rows = (torch.tensor(data[f"{case}_{what}"][step]) for what in ("negatives", "index"))
        for name, own, other in zip(names, both, reversed(both), strict=True):
            f = torch.tensor(data[f"{case}_features_{name}"][step]).requires_grad_()
            loss = other.loss(f, rows, drawn)
            loss.backward()
            own.remember(f, rows)
            if (name_out := f"{case}_out_{name}") in data:
                out = other.logits(f, drawn)
                out = out if h.get("softmax", True) else out.exp() / other.Z
                errors.add(f"out {name} {step}", out, data[name_out][step])
            errors.add(f"loss {name} {step}", loss, data[f"{case}_loss_{name}"][step])
            errors.add(f"grad {name} {step}", f.grad, data[f"{case}_grad_{name}"][step])
            if f"{case}_Z_{name}" in data:
                errors.add(f"Z {name} {step}", other.Z.clone(), data[f"{case}_Z_{name}"][step])
        for name, bank in zip(names, both, strict=True):
            bank.update()
            errors.add(f"memory {name} {step}", bank.memory.clone(), data[f"{case}_memory_{name}"][step])
    return errors


@pytest.mark.parametrize("case", ["nce", "softmax"])
def test_banks_against_the_official_code(cmc_ops: Path, case: str) -> None:
    data, hyper = np.load(cmc_ops), json.loads(cmc_ops.with_suffix(".json").read_text())
    errors = two_banks(data, case, hyper[case], ("l", "ab"))
    what = ("loss", "grad", "memory", "out", *(["Z"] if case == "nce" else []))
    steps = range(hyper[case]["steps"])
    errors.require(1e-9, [f"{w} {name} {step}" for w in what for name in PARTS for step in steps])


def test_banks_against_pycontrast(pycontrast_ops: Path) -> None:
    data, hyper = np.load(pycontrast_ops), json.loads(pycontrast_ops.with_suffix(".json").read_text())
    errors = two_banks(data, "cmcbank", hyper, ("1", "2"))
    what = ("loss", "grad", "memory")
    errors.require(1e-9, [f"{w} {name} {step}" for w in what for name in "12" for step in range(hyper["steps"])])


def channels(array: np.ndarray) -> list[Tensor]:
    return list(torch.tensor(array, dtype=torch.float64).movedim(-1, 0) / 255)


def test_colours(cmc_ops: Path, pycontrast_ops: Path) -> None:
    """Of scikit-image, and normalised as both codes do."""
    data, other = np.load(cmc_ops), np.load(pycontrast_ops)
    errors = RelativeErrors(torch.float64)
    for name in ("strip", "photo"):
        rgb = data[f"colour_{name}_rgb"]
        for space, convert in (("lab", rgb_to_lab), ("ycbcr", rgb_to_ycbcr)):
            errors.add(f"{name} {space}", torch.stack(convert(channels(rgb)), -1), data[f"colour_{name}_{space}"])
        ours = convert_colours(images(rgb[None]), "lab")[0].movedim(0, -1)
        errors.add(f"{name} normalised", ours, data[f"colour_{name}_lab_normalised"])
    rgb = other["colour_photo_rgb"]
    errors.add("ydbdr", torch.stack(rgb_to_ydbdr(channels(rgb)), -1), other["colour_photo_ydbdr"])
    normalised = convert_colours(images(rgb[None]), "ydbdr")[0].movedim(0, -1)
    errors.add("ydbdr normalised", normalised, other["colour_photo_normalised"])
    names = [f"{n} {w}" for n in ("strip", "photo") for w in ("lab", "ycbcr", "normalised")]
    errors.require(1e-9, [*names, "ydbdr", "ydbdr normalised"])


def narrow(state: dict[str, Tensor], blocks: list[int], in_chans: int) -> ResNet:
    """A half-width network behind the stem of 64 channels, without its head."""
    base = len(state["layer1.0.conv1.weight"])
    channels = tuple(base * 2**stage for stage in range(4))
    encoder = ResNet(Bottleneck, blocks, channels=channels, in_chans=in_chans, num_classes=0)
    encoder.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    return encoder


def load_head(model: CMC, heads: list[dict[str, Tensor]]) -> None:
    """Two Linears of the official code into the one with zeros."""
    linear = model.projector[0]
    with torch.no_grad():
        linear.weight.copy_(torch.block_diag(*(h["weight"] for h in heads)))
        linear.bias.copy_(torch.cat([h["bias"] for h in heads]))


def require_trajectory(model: CMC, hyper: dict[str, Any], data: Any, names: tuple[str, str], finals: list[str]) -> None:
    both, errors, after = [model.bank_l, model.bank_ab], RelativeErrors(torch.float64), RelativeErrors(torch.float64)
    dim = hyper["dim"]
    model.eval()
    with torch.no_grad():
        embedding = model.encoder(images(data["eval_image"]))
        errors.add("embedding", embedding, data["eval_embedding"])
        projections = [nn.functional.normalize(z) for z in model.projector(embedding).chunk(2, 1)]
        if "eval_projection" in data:
            expected = np.split(data["eval_projection"], 2, 1)
        else:
            expected = [data[f"eval_projection_{name}"] for name in names]
        for name, ours, reference in zip(names, projections, expected, strict=True):
            errors.add(f"projection {name}", ours, reference)
    give_draws(both[0], list(data["negatives"]))
    for step, losses in train_steps(model, hyper, data, [[images(view)] for view in data["view"]]):
        for n, (name, loss) in enumerate(zip(names, losses.values(), strict=True)):
            reference = data[f"loss_{name}"][step] if f"loss_{name}" in data else data["losses"][step, n]
            errors.add(f"loss {name} {step}", loss, np.asarray(reference))
        errors.add(f"loss {step}", sum(losses.values()), np.asarray(data["loss"][step]))
    steps = range(len(data["loss"]))
    losses_of = [f"loss {name} {step}" for name in names for step in steps]
    errors.require(1e-9, ["embedding", *(f"projection {n}" for n in names), *losses_of, *(f"loss {s}" for s in steps)])
    weight = model.projector[0].weight
    halves = weight[:dim].chunk(2, 1)[0], weight[dim:].chunk(2, 1)[1]
    assert float(weight.detach().abs().sum()) == pytest.approx(
        sum(float(h.detach().abs().sum()) for h in halves), rel=1e-12
    )
    for name, bank, half, final in zip(names, both, halves, finals, strict=True):
        after.add(f"memory {name}", bank.memory, data[f"memory_{name}_after"])
        after.add(f"head {name}", half[: len(data[final])], data[final])
    after.require(1e-7, [f"{what} {name}" for what in ("memory", "head") for name in names])


def test_trajectory(cmc_group: Path) -> None:
    hyper, data, init = group_files(cmc_group)
    loaded = read_official(init)
    parts = [below(loaded["model"], f"encoder.module.{name}.") for name in ("l_to_ab", "ab_to_l")]
    first, second = (narrow(part, hyper["blocks"], n) for n, part in enumerate(parts, 1))
    both = banks(hyper)
    model = CMC(SplitEncoder(first, second, "lab"), 2 * first.num_features, *both)
    load_head(model, [below(part, "fc.") for part in parts])
    model.double()
    for bank, name in zip(both, PARTS, strict=True):
        bank.memory.copy_(loaded["contrast"][f"memory_{name}"])
    require_trajectory(model, hyper, data, PARTS, ["final_fc_weight_l", "final_fc_weight_ab"])
    for bank, name in zip(reversed(both), PARTS, strict=True):
        if not hyper["softmax"]:
            assert data[f"Z_{name}"].tolist() == pytest.approx([float(bank.Z)] * len(data["loss"]), rel=1e-9)


def test_pycontrast_trajectory(cmc_pycontrast_group: Path) -> None:
    hyper, data, init = group_files(cmc_pycontrast_group)
    loaded = read_official(init)
    state, names = below(loaded["model"], "module."), ("1", "2")
    first, second = (narrow(below(state, f"encoder{n}."), hyper["blocks"], int(n)) for n in names)
    both = banks(hyper)
    model = CMC(SplitEncoder(first, second, "ydbdr"), 2 * first.num_features, *both)
    load_head(model, [below(state, f"head{n}.0.") for n in names])
    model.double()
    for bank, name in zip(both, names, strict=True):
        bank.memory.copy_(loaded["contrast"][f"memory_{name}"])
    require_trajectory(model, hyper, data, names, ["final_head1_0_weight", "final_head2_0_weight"])


# ---------------------------------------------------------------- without the goldens


def test_lightness_is_scored_against_the_colours_bank_and_enters_its_own() -> None:
    rng = np.random.default_rng(0)
    memory, f = rng.normal(size=(2, 20, 5)), rng.normal(size=(4, 10))
    halves = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in np.split(f, 2, 1)]
    both = [MemoryBank(20, 5, negatives=7, loss="softmax").double() for _ in range(2)]
    for bank, vectors in zip(both, memory, strict=True):
        bank.memory.copy_(torch.tensor(vectors))
    model = CMC(nn.Identity(), 10, *both).double()
    model.projector = nn.Identity()  # type: ignore[assignment]
    rows = torch.tensor([3, 9, 0, 19])
    losses = list(model([torch.tensor(f)], None, rows).values())
    drawn = both[0].draw(rows, 0).numpy()
    for own, loss, other in ((0, losses[0], 1), (1, losses[1], 0)):
        s = np.einsum("bd,bkd->bk", halves[own], memory[other][drawn]) / 0.07
        assert float(loss) == pytest.approx(-np.mean(s[:, 0] - np.log(np.exp(s).sum(1))), rel=1e-12)
    model.after_step(None)  # type: ignore[arg-type]
    for own in (0, 1):
        mixed = 0.5 * memory[own][rows.numpy()] + 0.5 * halves[own]
        expected = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        assert np.allclose(both[own].memory[rows].numpy(), expected, rtol=1e-12)


def test_known_colours() -> None:
    """White, black, the three primaries (CIE, D65): L, a, b of sRGB's published values; Y, Db, Dr of SECAM's."""
    colours = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64).T
    lab = torch.stack(rgb_to_lab(list(colours)), 1)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    assert torch.allclose(lab, torch.tensor(expected, dtype=torch.float64), atol=0.03)
    grays = torch.tensor([[0.5] * 3, [0.2] * 3], dtype=torch.float64).T
    lightness = rgb_to_lab(list(grays))[0].tolist()
    assert lightness == pytest.approx([116 * ((v + 0.055) / 1.055) ** 0.8 - 16 for v in (0.5, 0.2)], abs=1e-3)
    ydbdr = torch.stack(rgb_to_ydbdr(list(colours)), 1)
    assert torch.allclose(ydbdr[2:, 0], torch.tensor([0.299, 0.587, 0.114]).double())
    assert torch.allclose(ydbdr[:2, 1:], torch.zeros(2, 2).double(), atol=1e-12)
    assert float(ydbdr.abs().max()) == pytest.approx(1.333)
    ycbcr = torch.stack(rgb_to_ycbcr(list(colours)), 1)
    assert torch.allclose(ycbcr[:2], torch.tensor([[235.0, 128, 128], [16, 128, 128]]).double(), atol=0.01)


def test_white_and_black_normalised() -> None:
    """By the published ranges of a and b, and PyContrast's mean and deviation of Y, Db and Dr."""
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in zip(*MEANS, strict=True))
    white, black = (((v - mean) / std).view(1, 3, 1, 1) for v in (1.0, 0.0))
    a, b = (-86.183, 98.233), (-107.857, 94.478)
    expected = [1.0, -sum(a) / (a[1] - a[0]), -sum(b) / (b[1] - b[0])]
    assert convert_colours(white, "lab").flatten().tolist() == pytest.approx(expected, abs=1e-3)
    assert convert_colours(black, "lab").flatten().tolist() == pytest.approx([-1.0, *expected[1:]], abs=1e-3)
    expected = [(1 - 0.457) / 0.5, 0.082 / 1.331, 0.052 / 1.333]
    assert convert_colours(white, "ydbdr").flatten().tolist() == pytest.approx(expected, abs=1e-9)


def test_each_network_sees_its_own_channels() -> None:
    """A gray image has no colours: the second network's input is the same for all of them."""
    seen: list[Tensor] = []
    first, second = nn.Identity(), nn.Identity()
    for part in (first, second):
        part.register_forward_hook(lambda module, inputs, output: seen.append(output))
    gray = torch.stack([(torch.full((4, 4), v) - m) / s for v in (0.2, 0.7) for m, s in MEANS]).view(2, 3, 4, 4)
    SplitEncoder(first, second, "lab")(gray)
    assert [x.shape[1] for x in seen] == [1, 2]
    assert float((seen[0][0] - seen[0][1]).abs().min()) > 0.5
    assert torch.allclose(seen[1][0], seen[1][1], atol=1e-3)


MEANS = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))


def test_the_two_linears_stay_two() -> None:
    torch.manual_seed(0)
    linear = TwoLinears(6, 4).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.optim.SGD(linear.parameters(), lr=1.0).zero_grad()
    linear(x).square().sum().backward()
    for weights in (linear.weight, linear.weight.grad):
        assert weights is not None
        assert not weights[:2, 3:].any()
        assert not weights[2:, :3].any()
        assert bool((weights[:2, :3] != 0).all())
    expected = torch.cat([x[:, :3] @ linear.weight[:2, :3].T, x[:, 3:] @ linear.weight[2:, 3:].T], 1) + linear.bias
    assert torch.allclose(linear(x), expected)
    assert set(linear.state_dict()) == {"weight", "bias"}


def test_the_exported_encoder_is_one_model_on_every_path(tmp_path: Path) -> None:
    """``zoo.load``, folded batch norms and ONNX Runtime give the trained network's features."""
    add_tiny_architecture()
    recipe = tiny("cmc")
    network = build_method(recipe, 8).eval()
    state = {"recipe": to_json(recipe), "data": {"name": "photos", "images": 8}, "method": network.state_dict()}
    state |= {"step": 1, "total_steps": 1, "seconds": 1.0, "hardware": ["cpu"]}
    checkpoint.save(tmp_path, 1, state)  # type: ignore[arg-type]
    export(tmp_path, tmp_path / "e.safetensors")
    embedder = zoo.load(tmp_path / "e.safetensors", device="cpu")
    vectors = embedder(PHOTOS)
    pixels = torch.stack([embedder.transform(Image.open(photo)) for photo in PHOTOS])
    with torch.no_grad():
        expected = network.encoder(pixels)
        folded = fold_batch_norms(network.encoder)
        assert folded is not None
        torch.testing.assert_close(folded(pixels), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=1e-4, atol=1e-4)
    written = export_onnx(embedder, tmp_path / "e.onnx")  # which compares it with torch, and refuses what differs
    assert written.path.stat().st_size == written.bytes
