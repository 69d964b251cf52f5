from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
