"""Checkpoints of unusual ResNets, made by torchvision and timm: channels of the images, widths, depths, groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from official_files import vary
from PIL import Image
from torch import nn

import zoo
import zoo.timm_models
from zoo.convert.common import recognise
from zoo.convert.convert import Converted, convert
from zoo.errors import UserError
from zoo.evaluate.run import evaluate
from zoo.export.checkpoint_formats import rename
from zoo.export.export import Variant, export_onnx
from zoo.hub.networks import load_encoder
from zoo.hub.weights import locate
from zoo.models.registry import ARCHITECTURES
from zoo.publish.publish import publish
from zoo.transforms.preprocess import Preprocessing

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"


def one_convolution(network: nn.Module, channels: int) -> nn.Module:
    """The network with a first convolution for images of other channels, as its users make one."""
    old = network.conv1
    assert isinstance(old, nn.Conv2d)
    network.conv1 = nn.Conv2d(channels, old.out_channels, 7, 2, 3, bias=False)  # type: ignore[assignment]
    return network


def narrow(**arguments: Any) -> nn.Module:
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [1, 1, 2, 1], **arguments)


def stem_of(width: int) -> nn.Module:
    """A basic ResNet with every channel halved, as lightly's ``ResNetGenerator("resnet-18", width=0.5)``."""
    network = timm.create_model("resnet18", channels=(32, 64, 128, 256), num_classes=0)
    network.conv1, network.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
    block = network.layer1[0]
    block.conv1 = nn.Conv2d(width, 32, 3, 1, 1, bias=False)
    block.downsample = None if width == 32 else nn.Sequential(nn.Conv2d(width, 32, 1, bias=False), nn.BatchNorm2d(32))
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, Any]]] = {
    "gray 18": (lambda: one_convolution(torchvision.models.resnet18(), 1), 1, {"in_chans": 1}),
    "two channels": (lambda: one_convolution(torchvision.models.resnet18(), 2), 2, {"in_chans": 2}),
    "rgba 34": (lambda: one_convolution(torchvision.models.resnet34(), 4), 4, {"in_chans": 4}),
    "resnext50": (torchvision.models.resnext50_32x4d, 3, {"cardinality": 32, "base_width": 4}),
    "groups": (
        lambda: narrow(groups=4, width_per_group=24),
        3,
        {"layers": [1, 1, 2, 1], "cardinality": 4, "base_width": 24},
    ),
    "gray groups": (
        lambda: one_convolution(narrow(groups=4, width_per_group=24), 1),
        1,
        {"layers": [1, 1, 2, 1], "cardinality": 4, "base_width": 24, "in_chans": 1},
    ),
    "wide inner": (lambda: narrow(width_per_group=96), 3, {"layers": [1, 1, 2, 1], "base_width": 96}),
    "channels": (
        lambda: timm.create_model("resnet18", channels=(16, 40, 64, 72), layers=(1, 2, 1, 1), num_classes=0),
        3,
        {"layers": [1, 2, 1, 1], "channels": [16, 40, 64, 72]},
    ),
    "half": (lambda: stem_of(32), 3, {"channels": [32, 64, 128, 256], "stem_width": 32}),
    "odd stem": (lambda: stem_of(24), 3, {"channels": [32, 64, 128, 256], "stem_width": 24}),
    "timm's resnet26": (
        lambda: timm.create_model("resnet26", num_classes=0),
        3,
        {"preact": False, "width_factor": 1, "layers": [2] * 4},
    ),
}


def converted(name: str, folder: Path) -> tuple[Converted, nn.Module]:
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    vary(network)
    network = network.eval()
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in network.state_dict().items()}}, folder / "m.ckpt")
    out = convert(folder / "m.ckpt", "auto", folder / "m", licence="MIT")
    if hasattr(network, "fc"):
        network.fc = nn.Identity()  # type: ignore[assignment]
    return out, network


@pytest.mark.parametrize("name", ["x101_32x4d", "x101_32x8d", "x101_64x4d", "x152_32x4d", "x152_32x8d"])
def test_a_registered_resnext_is_found_in_torchvision_s(name: str) -> None:
    """By its shapes alone: without memory, for the largest has 120 million parameters."""
    expected = ARCHITECTURES[name]
    args = expected.model_args
    with torch.device("meta"):
        network = torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck,
            args["layers"],
            groups=args["cardinality"],
            width_per_group=args["base_width"],
        )
        network.fc = nn.Identity()  # type: ignore[assignment]
    assert recognise(network.state_dict())[0] == expected


@pytest.mark.parametrize("name", list(NETWORKS))
def test_it_converts_and_computes_the_same(name: str, tmp_path: Path) -> None:
    out, network = converted(name, tmp_path)
    _, channels, args = NETWORKS[name]
    assert dict(out.config.architecture.model_args) == args
    assert out.config.preprocessing.channels == channels
    x = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(x)
        assert torch.equal(load_encoder(locate(out.folder))(x), expected)
        by_timm = timm.create_model(f"local-dir:{out.folder}", pretrained=True).eval()
        assert torch.equal(by_timm(x), expected)


@pytest.mark.parametrize(("name", "mode"), [("gray groups", "L"), ("rgba 34", "RGBA"), ("two channels", "LA")])
def test_pictures_are_made_in_its_channels(name: str, mode: str, tmp_path: Path) -> None:
    out, network = converted(name, tmp_path)
    embedder = zoo.load(out.folder, device="cpu")
    transform = embedder.preprocessing
    assert (transform.mode, mode in transform.summary) == (mode, True)
    # A gray picture keeps its levels exactly.
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(14, 0).repeat(14, 1)
    pixels = transform.channels_of(Image.fromarray(levels).convert("RGB"))
    assert np.array_equal(pixels[..., 0], levels)
    if mode != "L":
        assert (pixels[..., -1] == 255).all(), "opaque"
    for photo in (PHOTOS / "photographer_gray.png", PHOTOS / "rocket.jpg"):
        x = embedder.transform(photo)[None]
        assert x.shape == (1, transform.channels, 224, 224)
        with torch.no_grad():
            expected = network(x).numpy()
        assert abs(embedder(photo) - expected).max() <= 1e-5 * abs(expected).max()
    more = zoo.load(out.folder, device="cpu", outputs=zoo.Outputs(layers=("layer3",), crops="ten", tiles=(2, 2)))
    assert more.outputs([PHOTOS / "rocket.jpg"])["tiles"].shape == (1, 2, 2, embedder.dim)


def test_a_gray_network_is_exported_and_published(tmp_path: Path) -> None:
    out, _ = converted("gray groups", tmp_path)
    embedder = zoo.load(out.folder, device="cpu")
    for pixels in ("any", "crop"):
        export_onnx(embedder, tmp_path / "m.onnx", Variant(pixels))  # refuses a file that differs from torch
    onnx = zoo.load(tmp_path / "m.onnx")
    publish(out.folder, "somebody/gray", dry_run=tmp_path / "repository", int8=False)
    card = (tmp_path / "repository" / "README.md").read_text()
    assert ", as L, mean 0.449" in card
    assert "pixels are uint8 [N, 224, 224, 1]" in card
    assert "RGB, short" not in card
    assert onnx.preprocessing == embedder.preprocessing


def test_the_normalisation_is_given_for_each_channel(tmp_path: Path) -> None:
    torch.save(one_convolution(torchvision.models.resnet18(), 1).state_dict(), tmp_path / "m.pth")
    given = Preprocessing(28, 28, mean=(0.13,), std=(0.31,))
    out = convert(tmp_path / "m.pth", "auto", tmp_path / "m", preprocessing=given)
    assert (out.config.preprocessing.mean, out.config.preprocessing.std) == ((0.13,), (0.31,))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["model_args"], config["pretrained_cfg"]["input_size"]) == ({"in_chans": 1}, [1, 28, 28])
    rgb = Preprocessing(28, 28, mean=(0.1, 0.2, 0.3))
    with pytest.raises(UserError, match="--mean and --std have 3 numbers, the network takes 1 channels"):
        convert(tmp_path / "m.pth", "auto", tmp_path / "n", preprocessing=rgb)


def test_other_commands_know_its_channels_and_its_stem(tmp_path: Path) -> None:
    (tmp_path / "gray").mkdir()
    (tmp_path / "half").mkdir()
    gray, _ = converted("gray groups", tmp_path / "gray")
    with pytest.raises(UserError, match="segment needs a network for RGB images, not for L"):
        evaluate("segment", str(gray.folder), tmp_path, device="cpu")
    half, _ = converted("half", tmp_path / "half")
    notes = rename(str(half.folder), "timm", tmp_path / "x.pth").notes
    assert notes[0] == "names only: timm builds a stem of 64 channels, this network's has 32"
    assert not any("stem_width" in note for note in notes)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"in_chans": 5}, "out of range"),
        ({"in_chans": 3}, "images of 1 channels, a network of 3"),
        ({"in_chans": 1, "cardinality": 10**9}, "out of range"),
        ({"in_chans": 1, "channels": [10**9, 1, 1, 1]}, "out of range"),
        ({"in_chans": 1, "stem_width": True}, "out of range"),
        ({"in_chans": 1, "block": "x"}, r"\['block'\] are not known"),
    ],
)
def test_a_hostile_config_is_refused(args: dict[str, Any], message: str, tmp_path: Path) -> None:
    out, _ = converted("gray 18", tmp_path)
    config = json.loads((out.folder / "config.json").read_text())
    (out.folder / "config.json").write_text(json.dumps(config | {"model_args": args}))
    with pytest.raises(UserError, match=message):
        zoo.load(out.folder, device="cpu")


def test_more_channels_than_a_picture_has_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(one_convolution(torchvision.models.resnet18(), 13).state_dict(), tmp_path / "m.pth")
    with pytest.raises(UserError, match="a network of 13 input channels; images have 1, 2, 3, 4"):
        convert(tmp_path / "m.pth", "auto", tmp_path / "m")


def test_a_shard_of_fsdp_is_refused_with_its_remedy(tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        network = narrow()
        fully_shard(network)
        torch.save({"model": network.state_dict()}, tmp_path / "m.pth")
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(
        UserError, match=r"DTensor, no plain tensor: it is a shard: save get_model_state_dict\("
    ) as error:
        convert(tmp_path / "m.pth", "auto", tmp_path / "m")
    assert "\n" not in str(error.value)
