"""Files of the codes in ``zoo.convert.layouts``: made by their key lists, and by the official codes themselves.

``pytest --goldens DIR`` reads the files that the official codes wrote (Barlow Twins, VICReg, CMC, PyContrast's InfoMin,
PIRL and CMC, lemniscate, VISSL's PIRL) and compares with what they computed.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_files import Network, cmc, split_network, under, vary
from torch import Tensor, nn

import zoo
from zoo.convert.convert import KINDS, convert
from zoo.convert.layouts import LAYOUTS
from zoo.errors import UserError
from zoo.models import checkpoint_dir
from zoo.models.colour_split import SplitEncoder
from zoo.models.registry import ARCHITECTURES, FAIR_224
from zoo.models.resnet import encoder_state

VISSL = ("classy_state_dict", "base_model", "model")
WIDTH = 256  # features of the small networks


def mlp(*widths: int, bias: bool = True, norms: bool = True, last_norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layers.append(nn.Linear(inputs, outputs, bias=bias))
        last = number == len(widths) - 1
        if last_norm if last else norms:
            layers.append(nn.BatchNorm1d(outputs, affine=not last))
        layers += [] if last else [nn.ReLU()]
    made = nn.Sequential(*layers).eval()
    vary(made)
    return made


def nested(state: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in reversed(keys):
        state = {key: state}
    return state


def state_of(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return under(encoder_state(module), prefix)


def converted(content: object, kind: str, tmp_path: Path, **options: Any) -> zoo.Embedder:
    file = tmp_path / f"{kind}.pth"
    torch.save(content, file)
    out = tmp_path / f"{kind}.{options.get('which', 'online')}"
    convert(file, kind, out, **options)
    return zoo.load(out, device="cpu")


def require_same(embedder: zoo.Embedder, net: nn.Module, **heads: nn.Module) -> None:
    x = torch.randn(2, 3, 65, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedding = embedder.model(x)
        assert difference(embedding, net(x)) < 1e-5
        found = {} if embedder.heads is None else {k: v for k, v in vars(embedder.heads).items() if v is not None}
        assert set(found) == set(heads)
        for part, head in heads.items():
            given = heads["projector"](embedding) if part in ("predictor", "prototypes") else embedding
            assert difference(found[part](given), head(given)) < 1e-5


def test_every_layout_is_a_kind_of_file() -> None:
    assert {kind for kind, entry in KINDS.items() if entry.module == "layouts"} == set(LAYOUTS)


# ---------------------------------------------------------------- by the codes' key lists


def test_moco_v3(net: Network, average: Network, tmp_path: Path) -> None:
    """``moco/builder.py``: ``fc`` is the projector, with a last BN without affine; the predictor has no last BN."""
    online, momentum = (mlp(WIDTH, 32, 16, bias=False, last_norm=True) for _ in range(2))
    predictor = mlp(16, 32, 16, bias=False)
    state = under(net.state, "module.base_encoder.") | state_of(online, "module.base_encoder.fc.")
    state |= under(average.state, "module.momentum_encoder.") | state_of(momentum, "module.momentum_encoder.fc.")
    state |= state_of(predictor, "module.predictor.")
    content = {"epoch": 1000, "arch": "resnet50", "state_dict": state, "optimizer": {}, "scaler": {}}
    embedder = converted(content, "mocov3", tmp_path)
    require_same(embedder, net.module, projector=online, predictor=predictor)
    assert embedder.preprocessing == FAIR_224
    target = converted(content, "mocov3", tmp_path, which="target")
    require_same(target, average.module, projector=momentum, predictor=predictor)


def test_dino_s_backbone_student_and_teacher(net: Network, average: Network, tmp_path: Path) -> None:
    """``main_dino.py:278``; the head (GELU, weight norm) is left out."""
    head = {"head.mlp.0.weight": torch.ones(8, WIDTH), "head.last_layer.weight_g": torch.ones(4, 1)}
    content = {
        "student": under(under(net.state, "backbone.") | head, "module."),
        "teacher": under(average.state, "backbone.") | head,
        "args": argparse.Namespace(arch="resnet50"),
        "epoch": 3,
    }
    require_same(converted(content, "dino", tmp_path), net.module)
    require_same(converted(content, "dino", tmp_path, which="target"), average.module)
    (tmp_path / "flat").mkdir()
    require_same(converted(dict(average.state), "dino", tmp_path / "flat"), average.module)
    with pytest.raises(UserError, match=r"no teacher\.backbone\.conv1\.weight \(the network asked for"):
        converted(dict(average.state), "dino", tmp_path / "flat", which="target")


@pytest.mark.parametrize("kind", ["barlowtwins", "vicreg"])
def test_twins_backbone_and_full_checkpoint(kind: str, net: Network, tmp_path: Path) -> None:
    projector = mlp(WIDTH, 32, 32, 16, bias=kind == "vicreg")
    state = under(net.state, "module.backbone.") | state_of(projector, "module.projector.")
    state["module.bn.running_mean"] = torch.zeros(16)
    require_same(
        converted({"epoch": 1, "model": state, "optimizer": {}}, kind, tmp_path), net.module, projector=projector
    )
    (tmp_path / "flat").mkdir()
    require_same(converted(dict(net.state), kind, tmp_path / "flat"), net.module)
    with pytest.raises(UserError, match=f"{kind} has no target network: leave --which out"):
        converted(dict(net.state), kind, tmp_path / "flat", which="target")


def test_densecl_backbone_and_full_checkpoint(net: Network, average: Network, tmp_path: Path) -> None:
    """``tools/extract_backbone_weights.py`` wrote the published files; the dense half of the neck is left out."""
    flat = {"state_dict": dict(net.state), "author": "DenseCL"}
    require_same(converted(flat, "densecl", tmp_path), net.module)
    projector = mlp(WIDTH, 32, 16, norms=False)
    state = under(net.state, "encoder_q.0.") | state_of(projector, "encoder_q.1.mlp.") | under(net.state, "backbone.")
    state |= under(average.state, "encoder_k.0.") | {"encoder_q.1.mlp2.0.weight": torch.ones(32, WIDTH, 1, 1)}
    state["queue"] = torch.ones(16, 8)
    (tmp_path / "full").mkdir()
    content = {"meta": {"epoch": 1}, "state_dict": state}
    require_same(converted(content, "densecl", tmp_path / "full"), net.module, projector=projector)
    require_same(converted(content, "densecl", tmp_path / "full", which="target"), average.module)


class NCEAverage(nn.Module):
    """What lemniscate pickles whole beside the state dict."""


def test_lemniscate(net: Network, tmp_path: Path) -> None:
    fc = nn.Linear(WIDTH, 16)
    state = under(net.state, "module.") | state_of(fc, "module.fc.")
    content = {"epoch": 1, "arch": "resnet50", "state_dict": state, "lemniscate": NCEAverage(), "optimizer": {}}
    require_same(converted(content, "lemniscate", tmp_path), net.module, projector=fc)


@pytest.mark.parametrize("head", [mlp(WIDTH, 16), mlp(WIDTH, 32, 16, norms=False)], ids=["linear", "mlp"])
def test_pycontrast_with_momentum_and_jigsaw(
    head: nn.Sequential, net: Network, average: Network, tmp_path: Path
) -> None:
    online = under(net.state, "encoder.") | state_of(head, "head.") | {"head_jig.fc2.weight": torch.ones(16, 144)}
    momentum = under(average.state, "encoder.") | state_of(head, "head.")
    content = {"opt": argparse.Namespace(a=1), "model": under(online, "module."), "model_ema": momentum, "epoch": 2}
    embedder = converted(content, "pycontrast", tmp_path, method="infomin")
    require_same(embedder, net.module, projector=head)
    assert embedder.weights_info["method"] == "infomin"
    require_same(converted(content, "pycontrast", tmp_path, which="target"), average.module, projector=head)


@pytest.mark.parametrize("form", ["trained", "base_model", "converted", "converted with a prefix", "flat"])
def test_vissl_s_places(form: str, net: Network, tmp_path: Path) -> None:
    blocks = under(net.state, "_feature_blocks.")
    content = {
        "trained": {"phase_idx": 1} | nested({"trunk": blocks, "heads": {}}, *VISSL),
        "base_model": nested({"trunk": under(blocks, "base_model."), "heads": {}}, *VISSL),
        "converted": {"model_state_dict": dict(net.state)},
        "converted with a prefix": {"model_state_dict": blocks},
        "flat": dict(net.state),
    }[form]
    require_same(converted(content, "vissl", tmp_path), net.module)


def test_vissl_s_heads(net: Network, tmp_path: Path) -> None:
    """PIRL's image branch, MLPs in a row with a ReLU after each but the last, SwAV's, and one that takes more."""
    alone, projection = mlp(WIDTH, 16), mlp(WIDTH, 32, 16)
    row = mlp(WIDTH, 32, 32, 16, bias=False)
    prototypes = nn.Linear(16, 30, bias=False)
    chained: dict[str, Tensor] = {}
    for number, layers in enumerate((row[:2], row[3:5], row[6:])):
        chained |= state_of(nn.Sequential(*layers), f"{number}.clf.")
    forms: dict[str, tuple[dict[str, Tensor], dict[str, nn.Module]]] = {
        "pirl": (
            state_of(alone, "1.0.clf.")
            | state_of(nn.Linear(WIDTH, 8), "0.0.clf.0.")
            | state_of(mlp(72, 16), "0.2.clf."),
            {"projector": alone},
        ),
        "simclr": (chained, {"projector": row}),
        "swav": (
            state_of(projection, "0.projection_head.") | state_of(prototypes, "0.prototypes0."),
            {"projector": projection, "prototypes": prototypes},
        ),
        "jigsaw": (state_of(mlp(9 * WIDTH, 16), "0.clf."), {}),
    }
    for form, (heads, expected) in forms.items():
        (tmp_path / form).mkdir()
        content = nested({"trunk": under(net.state, "_feature_blocks."), "heads": heads}, *VISSL)
        require_same(converted(content, "vissl", tmp_path / form), net.module, **expected)


@pytest.mark.parametrize("kind", ["mocov3", "auto", "vicreg", "moco"])
@pytest.mark.parametrize("value", [None, [1], {}, torch.tensor(1.0), torch.zeros(0), torch.zeros(0, 64, 1, 1)])
def test_what_is_no_weight_is_one_line(kind: str, value: object, net: Network, tmp_path: Path) -> None:
    places = {
        "mocov3": ("state_dict", "module.base_encoder."),
        "vicreg": ("model", "module.backbone."),
        "moco": ("state_dict", "module.encoder_q."),
        "auto": ("model", "net."),
    }
    place, prefix = places[kind]
    for key in ("layer1.0.conv1.weight", "layer2.0.bn1.running_var"):
        torch.save({place: under(net.state | {key: value}, prefix)}, tmp_path / "m.pth")
        with pytest.raises(UserError) as caught:
            convert(tmp_path / "m.pth", kind, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_a_file_of_another_code_is_refused_by_name(net: Network, tmp_path: Path) -> None:
    for kind in ("mocov3", "densecl", "lemniscate", "pycontrast", "cmc"):
        with pytest.raises(
            UserError, match=r"\.pth is not a checkpoint of \w+.*'s official code \(no \S+conv1\.weight"
        ):
            converted({"net": dict(net.state)}, kind, tmp_path)
    wrong = net.state | {"layer1.0.conv1.weight": torch.zeros(9, 8, 1, 1)}
    with pytest.raises(UserError, match="a 3x3 convolution of 8 inputs after 9 channels"):
        converted(wrong, "vicreg", tmp_path)


# ---------------------------------------------------------------- networks of split colours


@pytest.mark.parametrize("name", ["cmc_r50", None])
def test_cmc(name: str | None, tmp_path: Path) -> None:
    module = split_network([32, 64, 128, 256], "lab") if name else split_network([4, 8, 16, 32], "lab", [1, 2, 1, 1])
    heads = [nn.Linear(module.num_features // 2, 16) for _ in range(2)]
    embedder = converted(cmc(module, heads), "cmc", tmp_path)
    require_same(embedder, module, projector=Both(heads))
    assert embedder.weights_info["method"] == "cmc"
    if name:
        assert checkpoint_dir.read(tmp_path / "cmc.online").architecture == ARCHITECTURES[name]


class Both(nn.Module):
    """The first head of the first half, and the second of the second."""

    def __init__(self, heads: list[nn.Linear]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(half) for head, half in zip(self.heads, x.chunk(2, 1), strict=True)], 1)


def test_pycontrast_s_cmc_and_a_deeper_head(tmp_path: Path) -> None:
    module = split_network([4, 8, 16, 32], "ydbdr", [1, 1, 1, 1])
    state = state_of(module.first, "module.encoder1.") | state_of(module.second, "module.encoder2.")
    linear = [nn.Linear(128, 16) for _ in range(2)]
    heads = state_of(linear[0], "module.head1.0.") | state_of(linear[1], "module.head2.0.")
    require_same(converted({"model": state | heads}, "pycontrast", tmp_path), module, projector=Both(linear))
    deeper = state_of(mlp(128, 128, 16, norms=False), "module.head1.") | heads
    (tmp_path / "deeper").mkdir()
    require_same(converted({"model": state | deeper}, "pycontrast", tmp_path / "deeper"), module)


@pytest.mark.parametrize("name", ["cmc_r50", "cmc_r50v2", "cmc_r50v3"])
def test_a_split_network_is_recognised_as_the_registry_s(name: str) -> None:
    from zoo.convert.split_networks import recognise_split
    from zoo.models.resnet import build_encoder

    with torch.device("meta"):
        module = build_encoder(ARCHITECTURES[name])
    assert isinstance(module, SplitEncoder)
    found, state = recognise_split(module.first.state_dict(), module.second.state_dict(), "lab")
    assert found == ARCHITECTURES[name]
    assert set(state) == set(encoder_state(module))


def test_the_head_of_a_split_network_pools_its_maps() -> None:
    module = split_network([4, 8, 16, 32], "lab", [1, 1, 1, 1])
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = module.forward_features(x)
        assert maps.shape == (2, 256, 2, 2)
        torch.testing.assert_close(module.forward_head(maps), module(x))


def test_halves_that_are_no_pair_are_refused(tmp_path: Path) -> None:
    module = split_network([4, 8, 16, 32], "lab", [1, 1, 1, 1])
    swapped = state_of(module.second, "encoder.module.l_to_ab.") | state_of(module.first, "encoder.module.ab_to_l.")
    with pytest.raises(UserError, match=r"not of 1 channels"):
        converted({"model": swapped}, "cmc", tmp_path)
    missing = state_of(module.first, "encoder.module.l_to_ab.")
    with pytest.raises(UserError, match=r"is not a checkpoint of CMC's official code \(no '?conv1\.weight"):
        converted({"model": missing}, "cmc", tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("channels", [1 << 30] * 4), ("channels", [4, 8, 16, 33]), ("channels", "x"), ("layers", [10**9] * 4)],
)
def test_a_config_cannot_ask_for_a_split_network_of_any_size(tmp_path: Path, key: str, value: object) -> None:
    import json

    module = split_network([4, 8, 16, 32], "lab", [1, 1, 1, 1])
    converted(cmc(module), "cmc", tmp_path)
    path = tmp_path / "cmc.online" / "config.json"
    config = json.loads(path.read_text())
    config["model_args"][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="model_args are out of range"):
        zoo.load(tmp_path / "cmc.online", device="cpu")
    config["siamese_zoo"]["colours"] = "cmyk"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="colours 'cmyk' are not known"):
        zoo.load(tmp_path / "cmc.online", device="cpu")


def test_auto_knows_files_with_several_networks(net: Network, average: Network, tmp_path: Path) -> None:
    """They were refused: which of the two is meant?"""
    module = split_network([4, 8, 16, 32], "lab", [1, 1, 1, 1])
    halves = state_of(module.first, "module.encoder1.") | state_of(module.second, "module.encoder2.")
    two = under(net.state, "module.base_encoder.") | under(average.state, "module.momentum_encoder.")
    for number, (content, kind) in enumerate(
        (
            (cmc(module), "cmc"),
            ({"model": halves}, "pycontrast"),
            (
                {"model": under(net.state, "module.encoder."), "model_ema": under(average.state, "encoder.")},
                "pycontrast",
            ),
            ({"state_dict": two}, "mocov3"),
        )
    ):
        torch.save(content, tmp_path / "x.pth")
        config = convert(tmp_path / "x.pth", "auto", tmp_path / str(number)).config
        assert config.extra["converted_from"] == kind


def test_two_networks_have_no_names_in_other_libraries(tmp_path: Path) -> None:
    from zoo.export.checkpoint_formats import rename

    converted(cmc(split_network([4, 8, 16, 32], "lab", [1, 1, 1, 1])), "cmc", tmp_path)
    with pytest.raises(UserError, match="two networks of split colours, which torchvision has no names for"):
        rename(tmp_path / "cmc.online", "torchvision", tmp_path / "x.pth")


# ---------------------------------------------------------------- files that the official codes wrote


def as_the_code(group: Path, ending: str, kind: str, tmp_path: Path) -> None:
    """Embeddings and projections of the file at the start, as the official code computed them in float64."""
    convert(group.with_name(group.name + ending), kind, tmp_path / "m")
    embedder = zoo.load(tmp_path / "m", device="cpu")
    assert embedder.heads is not None
    data = np.load(group.with_suffix(".npz"))
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = torch.tensor(data["eval_image"], dtype=torch.float64).div(255).sub(mean).div(std).permute(0, 3, 1, 2)
    model, projector = embedder.model.double(), embedder.heads.projector
    with torch.no_grad():
        embedding = model(x)
        projection = projector.double()(embedding)
    assert difference(embedding, data["eval_embedding"]) < 1e-6
    if "eval_projection_l" in data:
        parts = projection.chunk(2, 1)
        expected = [data["eval_projection_l"], data["eval_projection_ab"]]
        assert max(difference(nn.functional.normalize(p), e) for p, e in zip(parts, expected, strict=True)) < 1e-6
    else:
        halves = torch.cat([nn.functional.normalize(half) for half in projection.chunk(2, 1)], 1)
        forms = (projection, nn.functional.normalize(projection), halves)  # some of the codes scale their output
        assert min(difference(form, data["eval_projection"]) for form in forms) < 1e-6


def difference(ours: Tensor, reference: Any) -> float:
    other = torch.as_tensor(reference, dtype=torch.float64)
    return float((ours - other).abs().max() / other.abs().max())


def test_barlow_twins_golden(barlowtwins_group: Path, tmp_path: Path) -> None:
    as_the_code(barlowtwins_group, ".init.pth", "barlowtwins", tmp_path)


def test_vicreg_golden(vicreg_group: Path, tmp_path: Path) -> None:
    as_the_code(vicreg_group, ".init.pth", "vicreg", tmp_path)


def test_instdisc_golden(instdisc_group: Path, tmp_path: Path) -> None:
    as_the_code(instdisc_group, ".init.pth.tar", "lemniscate", tmp_path)


def test_infomin_golden(infomin_group: Path, tmp_path: Path) -> None:
    as_the_code(infomin_group, ".init.pth", "pycontrast", tmp_path)


def test_cmc_golden(cmc_group: Path, tmp_path: Path) -> None:
    as_the_code(cmc_group, ".init.pth", "cmc", tmp_path)


def test_cmc_of_pycontrast_golden(cmc_pycontrast_group: Path, tmp_path: Path) -> None:
    as_the_code(cmc_pycontrast_group, ".init.pth", "pycontrast", tmp_path)


def test_pirl_golden(pirl_group: Path, tmp_path: Path) -> None:
    as_the_code(pirl_group, ".init.torch", "vissl", tmp_path)


def test_pirl_of_pycontrast_golden(pirl_pycontrast_group: Path, tmp_path: Path) -> None:
    as_the_code(pirl_pycontrast_group, ".init.pth", "pycontrast", tmp_path)
