"""What Tab completes: commands, options, choices, and the names of models and recipes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import training.cli
import zoo.cli.main
from zoo.cli.app import exit_code
from zoo.errors import EXIT_OK

APPS = {"zoo": zoo.cli.main.app, "zoo-train": training.cli.app}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("zoo ex", ["extract", "export"]),
        ("zoo extract --mo", ["--model"]),
        ("zoo extract --precision ", ["fp32", "bf16", "int8"]),
        ("zoo extract photos --out o --model mocov1", ["mocov1_r50", "mocov1_r50x2", "mocov1_r50x4"]),
        ("zoo info selav2_r50.", ["selav2_r50.fair_in1k_400ep", "selav2_r50.fair_in1k_400ep_2x224"]),
        ("zoo fetch nothing", []),
        ("zoo fetch nothing.", []),
        ("zoo extract ", []),  # the shell completes files
        ("zoo extrct --mo", []),
        ("zoo-train re", ["recipes"]),
        ("zoo-train run simsiam_r50_in1k_800ep_", ["simsiam_r50_in1k_800ep_b256"]),
    ],
)
def test_bash(line: str, found: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = line.split()[0]
    monkeypatch.setattr("sys.argv", [name])
    monkeypatch.setenv(f"_{name.replace('-', '_').upper()}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    assert exit_code(APPS[name], name, "") == EXIT_OK
    out, error = capsys.readouterr()
    assert error == ""
    assert [word for word in out.splitlines() if word] == found


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_printed_script_completes_in_a_shell(tmp_path: Path) -> None:
    command = tmp_path / "zoo"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m zoo "$@"\n')
    command.chmod(0o755)
    script = (
        "source <(zoo --show-completion bash); COMP_WORDS=(zoo info cpc); COMP_CWORD=2; _zoo_completion zoo; "
        'echo "$COMPREPLY"'
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PATH": path, "PYTHONPATH": root}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cpc_r50\n", "")
