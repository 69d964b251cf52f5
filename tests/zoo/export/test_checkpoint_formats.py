"""``zoo convert --to``: the other library builds the same network, or the notes say what it does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from zoo.export.checkpoint_formats import rename
from zoo.models import checkpoint_dir
from zoo.models.model_config import ModelConfig
from zoo.models.registry import ARCHITECTURES, Architecture
from zoo.models.resnet import build_encoder, encoder_state
from zoo.transforms.preprocess import Preprocessing


def written(architecture: Architecture, folder: Path) -> torch.nn.Module:
    """Write a random network as ``zoo convert`` does, and return it."""
    torch.manual_seed(0)
    encoder = build_encoder(architecture).eval()
    config = ModelConfig("narrow", "test", "byol", architecture, Preprocessing(64, 73), "MIT", "a test")
    checkpoint_dir.write(folder, config, encoder_state(encoder))
    return encoder


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_a_plain_network_needs_no_note_and_is_equal(to: str, tmp_path: Path) -> None:
    ours = written(ARCHITECTURES["r18"], tmp_path / "m")
    renamed = rename(tmp_path / "m", to, tmp_path / "x.pth")
    assert not any("names only" in note for note in renamed.notes)
    theirs = timm.create_model("resnet18", num_classes=0) if to == "timm" else torchvision.models.resnet18()
    if to == "torchvision":
        theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(x), ours(x))


def test_what_another_library_does_not_build_is_said(tmp_path: Path) -> None:
    written(ARCHITECTURES["r10"].variant(stem="cifar", padding="symmetric", project_first=False), tmp_path / "m")
    stem = "builds a 7x7 stem with a max-pool, this network's is 3x3 without one"
    args = dict(ARCHITECTURES["r10"].model_args)
    found = {to: rename(tmp_path / "m", to, tmp_path / f"{to}.safetensors").notes for to in ("timm", "torchvision")}
    assert found["torchvision"] == (
        f"names only: torchvision {stem}",
        f"names only: torchvision has no resnet18 with {args}",
    )
    assert found["timm"][0] == f"names only: timm {stem}"
    assert "layers=[1, 1, 1, 1]" in found["timm"][1]
