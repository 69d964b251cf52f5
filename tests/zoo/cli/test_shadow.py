"""Folders named as our packages, in the working folder, do not shadow them for the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ["{bin}/zoo", "list", "--json"],
        ["{bin}/zoo-train", "recipes"],
        [sys.executable, "-P", "-m", "zoo", "list", "--json"],
    ],
)
def test_a_folder_of_the_same_name_is_not_imported(command: list[str], tmp_path: Path) -> None:
    words = [word.replace("{bin}", str(Path(sys.executable).parent)) for word in command]
    if not Path(words[0]).exists():
        pytest.skip("the console scripts are not installed")
    for name in ("zoo", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "simsiam" in done.stdout
