"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from golden_files import find_goldens
from hub_server import WRITE_TOKEN, HubServer

if TYPE_CHECKING:
    from zoo.hub.hf_upload import Uploaded

# Before torch is imported, here and in child processes: by default OpenMP's idle threads spin, which costs the tests of
# small networks three times their CPU time where other processes use the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
    parser.addoption(
        "--published-text",
        type=Path,
        metavar="FILE",
        help="the papers' tables as text, to hold zoo/evaluate/published.json against",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=200,
        metavar="N",
        help="kills of tests/faults/test_kill_campaign.py, over all its commands (default: 200)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for every golden found in DIR (``golden_files``)."""
    wanted = [n for n in metafunc.fixturenames if n.endswith(("_group", "_ops"))]
    if not wanted:
        return
    found = find_goldens(metafunc.config.getoption("--goldens"))
    for name in wanted:
        paths = found.get(name, [])
        metafunc.parametrize(name, paths, ids=[p.stem for p in paths])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``tests/training/test_goldens.py`` gathers where the test's own file is collected, too."""
    gathered = [item for item in items if item.path.name == "test_goldens.py" and isinstance(item, pytest.Function)]
    own = {_call(item) for item in items if isinstance(item, pytest.Function) and item not in gathered}
    again = [item for item in gathered if _call(item) in own]
    if again:
        items[:] = [item for item in items if item not in again]
        config.hook.pytest_deselected(items=again)


def _call(item: pytest.Function) -> tuple[object, str]:
    return item.function, item.name.partition("[")[2]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tests and the commands they start neither read nor fill the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIAMESE_ZOO_CACHE", str(folder))
        yield folder


@pytest.fixture
def goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of outputs of the official codes."""
    folder: Path = request.config.getoption("--goldens")
    return folder


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real file of ``zoo-train export``'s kind with a randomly initialised ResNet-18 at 64 pixels."""
    import torch

    from zoo.hub.exported_encoder import save_encoder
    from zoo.models.registry import ARCHITECTURES
    from zoo.models.resnet import build_encoder, encoder_state
    from zoo.transforms.preprocess import Preprocessing

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


@pytest.fixture(scope="session")
def mini_core() -> Any:
    """The bundled network as the exporter traces it, once for all tests: it takes seconds."""
    import zoo
    from zoo.export.export import trace_core

    return trace_core(zoo.load(device="cpu"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A model hub on 127.0.0.1 that huggingface_hub in this process talks to, with a write token and an empty cache.

    The library reads its variables when it is imported, so its constants are set; ``test_loaders.py`` sets the
    variables themselves for processes of their own. Waiting between its retries is left out.
    """
    from huggingface_hub import close_session, constants

    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
        monkeypatch.setattr(time, "sleep", server.waits.append)
        yield server
    close_session()


@pytest.fixture
def published(hub: HubServer, tmp_path: Path) -> Uploaded:
    """A model on ``hub``, which has forgotten the requests that brought it there."""
    from hub_model import make_folder, upload

    done = upload(make_folder(tmp_path / "first"))
    hub.requests.clear()
    return done
