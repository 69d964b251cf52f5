"""Fetch a package of the npm registry with the npm client, for the pages that we publish."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from zoo.errors import UserError

_SECONDS = 600


def install(package_json: Path, into: Path) -> Path:
    """Install what a ``package.json`` names into a folder; return its ``node_modules``. No script of a package runs.

    Raises:
        UserError: npm is not installed, or cannot reach its registry.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("the page needs onnxruntime-web: install npm, or give its folder `dist` with --web-runtime DIR")
    shutil.copy(package_json, into / "package.json")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"npm was not done within {_SECONDS} s: try again, or give --web-runtime DIR") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"npm cannot install onnxruntime-web ({reason}): try again, or give --web-runtime DIR")
    return into / "node_modules"
