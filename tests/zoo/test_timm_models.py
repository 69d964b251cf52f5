"""TF padding through timm: the official outputs at every size, from nothing but the folder's config.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import zoo.timm_models  # noqa: F401
from zoo.convert import byol
from zoo.errors import UserError
from zoo.models import checkpoint_dir
from zoo.models.config_reader import read_config
from zoo.models.model_config import ModelConfig
from zoo.models.registry import Architecture
from zoo.models.resnet import build_encoder, encoder_state
from zoo.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

GOLDEN = Path(__file__).parents[1] / "goldens" / "byol_r14_free"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "model"
    official = byol.read(GOLDEN.with_suffix(".final.pkl"))
    description = ModelConfig("r14", None, "byol", official.architecture, Preprocessing(64, 73), "Apache-2.0", "golden")
    checkpoint_dir.write(path, description, official.online["encoder"])
    return path


def test_the_official_embeddings_at_even_odd_and_mixed_sizes(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    goldens = np.load(GOLDEN.with_suffix(".npz"))
    sizes = [key.removeprefix("eval_image_") for key in goldens if key.startswith("eval_image_")]
    assert {"64x64", "65x65"} <= set(sizes)
    for size in sizes:
        image = torch.from_numpy(goldens[f"eval_image_{size}"]).float()
        x = ((image - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(0, 3, 1, 2)
        with torch.no_grad():
            ours, official = model(x).numpy(), goldens[f"eval_embedding_{size}"]
        assert np.abs(ours - official).max() / np.abs(official).max() < 1e-4, size


def test_what_timm_offers_besides(folder: Path) -> None:
    x = torch.zeros(2, 3, 65, 64)
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(1, 4))
    assert [tuple(f.shape[1:]) for f in features(x)] == [(32, 17, 16), (256, 3, 2)]
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)(x).shape == (2, 7)
    assert timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}"))["input_size"] == [3, 64, 64]
    with pytest.raises(RuntimeError, match="no weights of its own"):
        timm.create_model("siamese_zoo_resnetv2_50", pretrained=True)
    with pytest.raises(RuntimeError, match="takes RGB"):
        timm.create_model(f"local-dir:{folder}", in_chans=1)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("resnet18", 512, 0, stem="cifar"),
        Architecture("resnet18", 512, 0, padding="same", project_first=True),
        Architecture("resnetv2_50", 128, 0, {"preact": False, "layers": [1] * 4, "width_factor": 0.0625}, "same-pool"),
        Architecture("resnetv2_18", 64, 0, {"width_factor": 0.125}, padding="same-pool", project_first=True),
    ],
    ids=["cifar", "project_first", "same-pool", "pre-activation"],
)
def test_every_difference_from_timm_travels(tmp_path: Path, architecture: Architecture) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(architecture).eval()
    description = ModelConfig("x", None, "byol", architecture, Preprocessing(33, 33), "Apache-2.0", "a test")
    checkpoint_dir.write(tmp_path / "model", description, encoder_state(encoder))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architecture"].startswith("siamese_zoo_")
    x = torch.randn(2, 3, 33, 35)
    with torch.no_grad():
        expected = encoder(x)
        torch.testing.assert_close(
            timm.create_model(f"local-dir:{tmp_path}/model", pretrained=True).eval()(x), expected
        )


def test_a_config_that_hides_the_padding_from_timm_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architecture"] = "resnetv2_50"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="contradict the section"):
        read_config(tmp_path / "config.json")
