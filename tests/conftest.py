"""Options and fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHIPPED_GOLDENS = Path(__file__).parent / "goldens"
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=SHIPPED_GOLDENS,
        metavar="DIR",
        help="folder with outputs of the official codes (default: the small group that ships in tests/goldens)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``byol_group`` and ``simsiam_group``: one test for every group of goldens found in DIR."""
    folder: Path = metafunc.config.getoption("--goldens")
    for method in ("byol", "simsiam"):
        if f"{method}_group" in metafunc.fixturenames:
            groups = sorted(p.with_suffix("") for p in folder.glob(f"{method}_*.json"))
            metafunc.parametrize(f"{method}_group", groups, ids=[g.name for g in groups])


@pytest.fixture
def goldens(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--goldens")


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real file of ``zoo-train export``'s kind with a randomly initialised ResNet-18 at 64 pixels."""
    import torch

    from zoo.encoder import build_encoder, encoder_state
    from zoo.preprocess import Preprocessing
    from zoo.registry import ARCHITECTURES
    from zoo.weights import save_encoder

    path = tmp_path_factory.mktemp("weights") / "random_r18.safetensors"
    torch.manual_seed(0)
    encoder = build_encoder(ARCHITECTURES["r18"])
    metadata = {
        "architecture": "r18",
        "method": "byol",
        "licence": "Apache-2.0",
        "preprocessing": Preprocessing(64, 73).to_json(),
    }
    save_encoder(path, encoder_state(encoder), metadata)
    return path
