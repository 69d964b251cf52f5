from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from zoo.hub.exported_encoder import save_encoder
from zoo.inference.embedder import Embedder, open_torch
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder, encoder_state
from zoo.transforms.preprocess import Preprocessing

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ResNet-18 for 32-pixel images."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    metadata = {
        "architecture": "r18",
        "method": "byol",
        "licence": "Apache-2.0",
        "preprocessing": Preprocessing(32, 32).to_json(),
    }
    save_encoder(path, encoder_state(build_encoder(ARCHITECTURES["r18"])), metadata)
    return str(path)


@pytest.fixture
def narrow() -> Embedder:
    """A ResNet with a block per stage, a quarter of ResNet-18's channels and random weights, on 32-pixel images.

    It learns a few images by heart in a second, and may be changed in place.
    """
    torch.manual_seed(0)
    model = timm.create_model(
        "resnet18", num_classes=0, channels=(16, 32, 64, 128), layers=(1, 1, 1, 1), zero_init_last=False
    )
    return open_torch(model, Preprocessing(32, 32), {"model": "narrow"}, device="cpu")


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 training and 16 test pieces of four photographs, a class each; the test pieces lie between the others."""
    root = tmp_path_factory.mktemp("tiles") / "tiles"
    for label, photo in enumerate(PHOTOS[:4]):
        image = Image.open(photo).convert("RGB").resize((200, 160))
        for n in range(20):
            split = "test" if n % 5 == 4 else "train"
            folder = root / split / f"c{label}"
            folder.mkdir(parents=True, exist_ok=True)
            left, top = 40 * (n % 5), 40 * (n // 5)
            image.crop((left, top, left + 40, top + 40)).save(folder / f"{n:02d}.png")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
