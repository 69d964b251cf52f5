from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from photographs import PHOTOS

import zoo
from zoo.inference.outputs import Outputs

NOBODY = 65534


@pytest.fixture
def without_privileges() -> Iterator[Path]:
    """An empty folder, and a process to which permissions apply: as root, they do not before this."""
    root = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(root, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield root
    finally:
        if is_root:
            os.seteuid(0)
        for path in (root, *root.rglob("*")):
            if not path.is_symlink() and path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """For modules that run a network on images of full size."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def many_outputs() -> zoo.Embedder:
    """The bundled network, asked for layers, a map and tiles beside the embedding."""
    return zoo.load(device="cpu", outputs=Outputs(layers=("layer4", "layer2"), maps=("layer3",), tiles=(2, 3)))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``PHOTOS``, and last a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    for photo in PHOTOS:
        shutil.copyfile(photo, folder / photo.name)
    (folder / "zz_bad.jpg").write_bytes(b"bad")
    return folder
