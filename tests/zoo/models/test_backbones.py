"""Networks of timm beside the ResNets: found, refused in one line, written, read and evaluated as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import hubconf
import zoo
from zoo.errors import UserError
from zoo.hub.weights import locate
from zoo.models import checkpoint_dir
from zoo.models.backbones import embedding_size, find_backbone, has_stages, recompute_activations
from zoo.models.fuse_bn import fold_batch_norms
from zoo.models.model_config import ModelConfig
from zoo.models.resnet import build_encoder, encoder_state
from zoo.transforms.preprocess import Preprocessing

PHOTO = Path(__file__).parents[3] / "examples" / "photos" / "cat_chelsea.jpg"


@pytest.mark.parametrize(
    ("name", "sizes", "features", "args"),
    [
        ("convnext_atto", (32,), 320, {}),
        ("mobilenetv3_small_050", (32, 24), 1024, {}),  # its layers after the pool are wider than num_features, 288
        ("vit_tiny_patch16_224", (32, 48), 192, {"img_size": 32, "dynamic_img_size": True}),
        ("swin_tiny_patch4_window7_224", (64,), 768, {"img_size": 64, "dynamic_img_size": True}),
        ("resnet34", (64,), 512, {}),
    ],
)
def test_a_network_is_measured(name: str, sizes: tuple[int, ...], features: int, args: dict[str, Any]) -> None:
    found = find_backbone(name, sizes)
    assert (found.timm_name, found.num_features) == (name, features)
    assert found.model_args.items() <= args.items()
    network = build_encoder(found).eval()
    assert sum(p.numel() for p in network.parameters()) == found.parameters
    for side in sizes:
        assert network(torch.zeros(2, 3, side, side)).shape == (2, features)
    assert embedding_size(network) == features


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("convnext_aato", 32, "unknown architecture 'convnext_aato': did you mean convnext_atto, "),
        ("zzz", 32, "unknown architecture 'zzz': one of r10, r18, .* or a name of timm"),
        ("vit_tiny_patch16_224.augreg_in21k", 32, "leave out the tag .augreg_in21k"),
        ("hf-hub:somebody/something", 32, "unknown architecture"),
        ("vit_tiny_patch16_224", 40, "does not take images of 40 pixels .40 is no multiple of its patch of 16 pixels"),
    ],
)
def test_a_wrong_name_or_size_is_one_line(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        find_backbone(name, (size,))
    assert "\n" not in str(error.value)


def written(folder: Path, name: str, size: int) -> Path:
    """A converted model of random weights."""
    torch.manual_seed(0)
    architecture = find_backbone(name, (size,))
    encoder = build_encoder(architecture).eval()
    config = ModelConfig(
        "own", None, "byol", architecture, Preprocessing(size, size), "MIT", "a test", extra={"network": "online"}
    )
    checkpoint_dir.write(folder, config, encoder_state(encoder))
    return folder


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 32),
        ("swin_tiny_patch4_window7_224", 64),  # has buffers that no file holds
        ("levit_128s", 224),  # batch norms, and one size only
    ],
)
def test_a_folder_gives_the_network_back_here_in_timm_and_in_torch_hub(tmp_path: Path, name: str, size: int) -> None:
    folder = written(tmp_path / "m", name, size)
    torch.manual_seed(0)
    expected = build_encoder(find_backbone(name, (size,))).eval()
    embedder = zoo.load(folder, device="cpu")
    x = embedder.transform(PHOTO)[None]
    by_hub = hubconf.encoder(str(folder))
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        reference = expected(x)
        for network in (embedder.model, by_hub, by_timm):
            assert (network(x) - reference).abs().max() <= 1e-5 * reference.abs().max()
    error = abs(embedder(PHOTO) - reference.numpy()).max() / abs(reference).max()
    assert float(error) < 1e-5, "the copy with folded batch norms"


def test_only_batch_norms_are_folded() -> None:
    assert fold_batch_norms(build_encoder(find_backbone("convnext_atto", (32,))).eval()) is None
    folded = fold_batch_norms(build_encoder(find_backbone("mobilenetv3_small_050", (32,))).eval())
    assert folded is not None
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())


def test_what_needs_the_stages_of_a_resnet_is_refused_by_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", "vit_tiny_patch16_224", 32)
    for outputs, option in ((zoo.Outputs(layers=("layer3",)), "--layers"), (zoo.Outputs(maps=("layer4",)), "--maps")):
        with pytest.raises(UserError, match=f"{option} needs the four stages of a ResNet"):
            zoo.load(folder, device="cpu", outputs=outputs)
    with pytest.raises(UserError, match="features_only needs the four stages"):
        hubconf.encoder(str(folder), features_only=True)
    assert has_stages(build_encoder(find_backbone("resnet34", (32,))))


def test_a_network_without_checkpointing_says_so() -> None:
    with pytest.raises(UserError, match="cannot recompute its activations: set checkpoint_activations=false"):
        recompute_activations(timm.create_model("inception_v4"), "net")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "no_such_network"}, "unknown architecture 'no_such_network'"),
        ({"architecture": "vit_small_patch16_224"}, "does not fit its architecture|states 192 features"),
        ({"model_args": {"img_size": 10**9, "dynamic_img_size": True}}, "out of range"),
        ({"model_args": {"img_size": 32, "dynamic_img_size": "yes"}}, "out of range"),
        ({"model_args": {"img_size": 32, "pretrained": True}}, r"\['pretrained'\] are not known"),
        ({"num_features": 64}, "states 64 features, its network has 192"),
    ],
)
def test_a_hostile_config_of_a_timm_network_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = written(tmp_path / "m", "vit_tiny_patch16_224", 32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=message):
        zoo.load(folder, device="cpu")


def test_weights_of_another_network_do_not_meet_a_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", "convnext_atto", 32)
    assert locate(folder).architecture.timm_name == "convnext_atto"
    with pytest.raises(UserError, match=r"is a convnext_atto .* byol_r18 is a resnet18"):
        hubconf.byol_r18(weights=str(folder))
