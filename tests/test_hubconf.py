"""torch.hub from a plain clone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import UserError
from zoo.registry import ARCHITECTURES, DEFAULT_MODEL, MODELS
from zoo.weights import BUNDLED

ROOT = str(Path(__file__).parents[1])
PHOTO = Path(ROOT) / "examples" / "photos" / "cat_chelsea.jpg"


@pytest.fixture
def cached_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """This clone where torch.hub keeps what it has downloaded; list and help know no other source."""
    (tmp_path / "somebody_siamese-zoo_main").symlink_to(ROOT)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return "somebody/siamese-zoo:main"


def test_list_and_help_know_every_name(cached_repository: str) -> None:
    quiet = {"skip_validation": True, "trust_repo": True}
    assert sorted(torch.hub.list(cached_repository, **quiet)) == sorted(MODELS)
    for name in MODELS:
        text = torch.hub.help(cached_repository, name, **quiet)
        assert "pretrained" in text
        assert str(ARCHITECTURES[MODELS[name].architecture].num_features) in text


@pytest.mark.parametrize("name", MODELS)
def test_every_name_gives_its_architecture(name: str) -> None:
    with torch.device("meta"):
        model = torch.hub.load(ROOT, name, source="local", pretrained=False)
    assert not model.training
    expected = ARCHITECTURES[MODELS[name].architecture]
    assert sum(p.numel() for p in model.parameters()) == expected.parameters


def test_the_bundled_network_by_name_tag_and_path(random_weights: Path) -> None:
    embedder = zoo.load()
    x = embedder.transform(PHOTO)[None]
    tag = MODELS[DEFAULT_MODEL].default_tag
    for options in ({}, {"weights": tag}, {"weights": str(BUNDLED / f"{DEFAULT_MODEL}.{tag}.safetensors")}):
        model = torch.hub.load(ROOT, DEFAULT_MODEL, source="local", **options)
        with torch.no_grad():
            np.testing.assert_allclose(model(x).numpy(), embedder(PHOTO), rtol=1e-4, atol=1e-5)
        assert model.preprocessing == embedder.preprocessing
    other = torch.hub.load(ROOT, "byol_r18", source="local", weights=str(random_weights))
    assert not torch.equal(other.conv1.weight, model.conv1.weight)


def test_no_weights_no_network(random_weights: Path) -> None:
    with pytest.raises(UserError, match="no released weights"):
        torch.hub.load(ROOT, "byol_r18", source="local")
    with pytest.raises(UserError, match="has no weights 'nothing'"):
        torch.hub.load(ROOT, "byol_r18", source="local", weights="nothing")
    with pytest.raises(UserError, match="gives 512 features, byol_r50 has 2048"):
        torch.hub.load(ROOT, "byol_r50", source="local", weights=str(random_weights))
    with pytest.raises(UserError, match="contradict"):
        torch.hub.load(ROOT, "byol_r18", source="local", weights=str(random_weights), pretrained=False)


def test_only_the_documented_packages_are_needed() -> None:
    """In a fresh process in which the packages that hubconf does not name cannot be imported."""
    code = f"""
import sys
for name in ("typer", "rich", "pyarrow", "onnx", "onnxruntime", "sklearn", "matplotlib"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import torch
model = torch.hub.load({ROOT!r}, {DEFAULT_MODEL!r}, source="local")
print(model(torch.zeros(1, 3, 48, 48)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 512])" in done.stdout
