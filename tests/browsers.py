"""Node packages and a browser for tests of web pages; without them the tests are skipped."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PLAYWRIGHT = Path(__file__).parent / "examples" / "package.json"
_NPM_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamese-zoo-tests" / "npm"


def installed(package_json: Path) -> Path:
    """Return the ``node_modules`` of a package.json, installed once into a cache; skip the test if npm fails."""
    if shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    folder = _NPM_CACHE / hashlib.sha256(package_json.read_bytes()).hexdigest()[:16]
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(package_json, folder)
        command = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=30000"]
        environment = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install the packages: {done.stderr.strip().splitlines()[-1]}")
        (folder / "done").touch()
    return folder / "node_modules"
