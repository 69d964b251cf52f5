"""Files of ``zoo.convert.layouts`` as people save them again: without DDP's ``module.``, or with it, and in a dict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import Network, cmc, split_network, under
from torch import Tensor

from zoo.convert.convert import Converted, convert
from zoo.convert.layouts import LAYOUTS
from zoo.errors import UserError
from zoo.hub.networks import load_encoder
from zoo.hub.weights import locate

State = dict[str, Tensor]
VISSL = ("classy_state_dict", "base_model", "model")


def read(content: object, kind: str, tmp_path: Path, **options: Any) -> Converted:
    torch.save(content, tmp_path / "m.pth")
    return convert(tmp_path / "m.pth", kind, tmp_path / f"out.{len(list(tmp_path.iterdir()))}", **options)


def is_network(converted: Converted, module: torch.nn.Module) -> bool:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(load_encoder(locate(converted.folder))(pixels), module(pixels))


def linear(inputs: int, outputs: int, prefix: str) -> State:
    return under({"weight": torch.ones(outputs, inputs), "bias": torch.ones(outputs)}, prefix)


def files(net: State, average: State) -> dict[str, dict[str, Any]]:
    """A file of each code, with all the ``module.`` that it writes."""
    projector = linear(256, 16, "projector.0.")
    encoder, head = under(net, "encoder."), linear(256, 16, "head.0.")
    trunk = {"trunk": under(net, "_feature_blocks."), "heads": linear(256, 16, "1.0.clf.0.")}
    base, momentum = (
        under(net, "base_encoder.") | linear(256, 16, "base_encoder.fc.0."),
        under(average, "momentum_encoder."),
    )
    return {
        "mocov3": {"state_dict": under(base | momentum, "module.")},
        "dino": {"student": under(net, "module.backbone."), "teacher": under(average, "backbone.")},
        "barlowtwins": {"model": under(under(net, "backbone.") | projector, "module.")},
        "vicreg": {"model": under(under(net, "backbone.") | projector, "module.")},
        "densecl": {"state_dict": under(net, "encoder_q.0.") | linear(256, 16, "encoder_q.1.mlp.0.")},
        "lemniscate": {"state_dict": under(net | linear(256, 16, "fc."), "module.")},
        "pycontrast": {"model": under(encoder | head, "module."), "model_ema": under(average, "encoder.")},
        "cmc": {"model": under(net | linear(256, 16, "fc."), "encoder.module.")},
        "vissl": {VISSL[0]: {VISSL[1]: {VISSL[2]: trunk}}},
    }


def renamed(content: Any, rename: Callable[[str], str]) -> Any:
    """Rename the keys of the innermost dicts."""
    return {
        rename(key) if isinstance(value, Tensor) else key: renamed(value, rename) if isinstance(value, dict) else value
        for key, value in content.items()
    }


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("form", ["without", "in front"])
def test_module_is_where_it_is_not_written_and_the_reverse(
    kind: str, form: str, net: Network, average: Network, tmp_path: Path
) -> None:
    def rename(key: str) -> str:
        return key.replace("module.", "") if form == "without" else f"module.{key}"

    content = files(net.state, average.state)[kind]
    official, found = (read(c, kind, tmp_path) for c in (content, renamed(content, rename)))
    assert is_network(official, net.module)
    assert is_network(found, net.module)
    assert found.config.heads == official.config.heads
    assert (found.config.method, len(found.left_out)) == (official.config.method, len(official.left_out))


@pytest.mark.parametrize("kind", ["barlowtwins", "vicreg", "dino", "densecl", "vissl"])
@pytest.mark.parametrize(("place", "prefix"), [("", "module."), ("state_dict", "module."), ("model", "")])
def test_a_published_backbone_saved_again_in_a_dict(
    kind: str, place: str, prefix: str, net: Network, tmp_path: Path
) -> None:
    state = under(net.state, prefix)
    content = {place: state, "epoch": 3, "optimizer": {"momentum": torch.ones(3)}} if place else state
    assert is_network(read(content, kind, tmp_path), net.module)
    supervised = state | linear(256, 10, f"{prefix}fc.")
    if kind in ("barlowtwins", "vicreg", "dino"):
        with pytest.raises(UserError, match=r"which writes no \S*fc\.weight"):
            read({place: supervised} if place else supervised, kind, tmp_path)


def test_auto_knows_a_split_network_without_module(tmp_path: Path) -> None:
    """It was taken for two networks of which one is to be chosen."""
    module = split_network([4, 8, 16, 32], "lab", [1, 1, 1, 1])
    found = read(renamed(cmc(module), lambda key: key.replace("module.", "")), "auto", tmp_path)
    assert found.config.extra["converted_from"] == "cmc"
    assert is_network(found, module)
    module = split_network([4, 8, 16, 32], "ydbdr", [1, 1, 1, 1])
    halves = under(module.first.state_dict(), "encoder1.") | under(module.second.state_dict(), "encoder2.")
    found = read({"model": halves}, "auto", tmp_path)
    assert found.config.extra["converted_from"] == "pycontrast"
    assert is_network(found, module)


def test_auto_still_asks_which_of_two_usual_networks_is_meant(net: Network, average: Network, tmp_path: Path) -> None:
    two = under(net.state, "encoder1.") | under(average.state, "encoder2.")
    with pytest.raises(UserError, match=r"2 networks: choose one with --prefix: 'model\.encoder1\.'"):
        read({"model": two}, "auto", tmp_path)


def test_keys_with_and_without_module_are_two_networks(net: Network, average: Network, tmp_path: Path) -> None:
    both = {"model": under(net.state, "backbone.") | under(average.state, "module.backbone.")}
    with pytest.raises(UserError, match="the same keys with and without module"):
        read(both, "vicreg", tmp_path)


@pytest.mark.parametrize(
    ("kind", "lacks", "which"), [("dino", "student", "target"), ("mocov3", "base_encoder", "target")]
)
def test_a_file_with_the_other_network_alone_says_how_to_read_it(
    kind: str, lacks: str, which: str, net: Network, average: Network, tmp_path: Path
) -> None:
    content = files(net.state, average.state)[kind]
    content = {k: {n: t for n, t in v.items() if lacks not in n} for k, v in content.items() if k != lacks}
    with pytest.raises(UserError, match=f"it holds the .* alone: --which {which}"):
        read(content, kind, tmp_path)
    assert is_network(read(content, kind, tmp_path, which=which), average.module)


@pytest.mark.parametrize("kind", ["dino", "densecl", "vissl"])
def test_auto_says_which_kind_knows_the_network_that_is_meant(
    kind: str, net: Network, average: Network, tmp_path: Path
) -> None:
    content = files(net.state, average.state)[kind]
    if kind == "densecl":
        content["state_dict"] |= under(average.state, "encoder_k.0.")
    if kind == "vissl":  # VISSL stores MoCo's key network in the loss
        content["loss"] = {"moco_encoder": {"trunk": under(average.state, "_feature_blocks.")}}
    with pytest.raises(
        UserError, match=f"2 networks: .*; if it is an official file, --from {kind} knows which"
    ) as caught:
        read(content, "auto", tmp_path)
    assert "\n" not in str(caught.value)
