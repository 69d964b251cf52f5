"""``examples/train_simsiam.py``: forty lines that train SimSiam on a torch data set, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import zoo

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_simsiam.py"


def test_the_script_trains_exports_and_names_the_next_command(tmp_path: Path) -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 40
    words = [sys.executable, str(SCRIPT), str(ROOT / "examples" / "photos"), "run", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("zoo extract --model run/encoder.safetensors --images ")
    assert zoo.load(tmp_path / "run" / "encoder.safetensors", device="cpu").dim == 512
