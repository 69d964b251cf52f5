"""``benchmarks/gpu.sh``, rehearsed on a CPU: every part runs, ends in its time and writes its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("forward", "streams", "decode", "files", "providers")
_ON_A_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "graph", "torchvision")


def script(out: Path, **environment: str) -> list[dict[str, Any]]:
    told = {**os.environ, "DEVICE": "cpu", "TINY": "1", "PYTHON": sys.executable, **environment}
    done = subprocess.run([ROOT / "benchmarks" / "gpu.sh", out], env=told, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (out / "parts.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_part_runs_and_writes_its_json(tmp_path: Path) -> None:
    parts = {part["part"]: part for part in script(tmp_path, SLOWER="5")}
    assert list(parts)[:7] == ["tests", *PARTS, "data"]
    for name, part in parts.items():
        assert part["exit_code"] == 0, (tmp_path / f"{name}.log").read_text()
        assert part["seconds"] <= part["limit"] + 6
    for name in PARTS:
        rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
        assert rows
        for row in rows:
            if not any(word in row["name"] for word in _ON_A_GPU):
                assert "failed" not in row, row
    assert (tmp_path / "training.json").exists()
    assert (tmp_path / "cifar_byol.jsonl").exists()


def test_a_part_that_hangs_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    """A Python that sleeps in one part stands for a driver that hangs."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *forward*) sleep 60;; *fail*|*decode*) exit 3;; esac\n')
    python.chmod(0o755)
    parts = script(tmp_path / "out", PYTHON=str(python), SECONDS_IN_ALL="8")
    codes = {part["part"]: part["exit_code"] for part in parts}
    assert codes["tests"] == 0
    assert codes["forward"] == 124
    assert codes["cifar_byol"] == 125, "no time was left"
    assert sum(part["seconds"] for part in parts) <= 20
