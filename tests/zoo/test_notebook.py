"""What a notebook and a terminal show of the Python interface: progress, one line for an error, one for an embedder."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import written_to

import zoo
from zoo.errors import UserError
from zoo.inference.embedder import open_torch
from zoo.system import progress as progress_module
from zoo.system.progress import Progress

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("rocket.jpg", "cat_kitten.jpg"):
        os.link(PHOTOS / name, tmp_path / "images" / name)
    return tmp_path / "images"


def test_an_embedder_is_one_line() -> None:
    embedder = zoo.load(device="cpu")
    assert repr(embedder) == "Embedder(simclr_r18_mini.tin64: 512 numbers, torch fp32 on cpu, Apache-2.0)"
    made = open_torch(embedder.model, embedder.preprocessing, {}, device="cpu")
    assert repr(made) == "Embedder(a network in memory: 512 numbers, torch fp32 on cpu, licence unknown)"


def test_progress_is_shown_where_it_can_be_seen(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(out: str, **options: bool) -> str:
        zoo.extract(images, tmp_path / out, device="cpu", backend="torch", **options)
        return capsys.readouterr().err

    assert shown("pipe") == ""
    assert "2 of 2 images" in shown("asked", progress=True)
    monkeypatch.setattr(progress_module, "in_notebook", lambda: True)
    assert shown("no", progress=False) == ""
    said = shown("notebook")
    assert said.startswith("\r2 of 2 images")
    assert said.endswith("\n")
    assert said.count("\n") == 1


def test_a_notebook_writes_over_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress_module, "in_notebook", lambda: True)
    monkeypatch.setattr(progress_module, "_NOTEBOOK_SECONDS", -1.0)
    monkeypatch.setattr("sys.stderr", stream)
    with Progress("images") as bar:
        bar.start(3)
        for _ in range(3):
            bar.advance(1)
    lines = stream.getvalue().split("\r")
    assert [line[:11] for line in lines] == ["", "1 of 3 imag", "2 of 3 imag", "3 of 3 imag"]


def test_a_terminal_gets_a_bar(images: Path, tmp_path: Path) -> None:
    parent, child = pty.openpty()
    script = "import sys, zoo; zoo.extract(sys.argv[1], sys.argv[2], device='cpu', backend='torch')"
    process = subprocess.Popen([sys.executable, "-c", script, images, tmp_path / "out"], stderr=child)
    os.close(child)
    said = written_to(parent)
    assert process.wait(60) == 0
    assert b"2/2" in said


def test_an_error_in_a_notebook_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert UserError("give a folder")._render_traceback_() == ["UserError: give a folder"]
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="shows errors as a notebook does")
    shell = shells.InteractiveShell()
    shell.run_cell("import zoo\nzoo.load('byol_r05')")
    said = capsys.readouterr().out.strip()
    assert said == "UserError: unknown model 'byol_r05': did you mean byol_r50? `zoo list` shows all names"
