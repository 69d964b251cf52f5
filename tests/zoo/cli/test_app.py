"""Checks of arguments that ``zoo`` and ``zoo-train`` make for all commands."""

from __future__ import annotations

from pathlib import Path

import pytest

import training.cli
import zoo.cli.main
from zoo.cli.app import exit_code
from zoo.errors import EXIT_USER_ERROR

APPS = {"zoo": zoo.cli.main.app, "zoo-train": training.cli.app}


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["zoo", "extract", "--images", "photos", "--out", ""], "--out"),
        (["zoo", "extract", "--out", "features", "--backend", "torch", "--images", ""], "--images"),
        (["zoo", "evaluate", "knn", "--data", "photos", "--out="], "--out"),
        (["zoo", "evaluate", "knn", "--data", ""], "--data"),
        (["zoo", "export", "--model", "byol_r18_mini", "--out", ""], "--out"),
        (["zoo", "convert", "a.pth", "--from", "simsiam", "--out", ""], "--out"),
        (["zoo", "publish", "byol_r18_mini", "--repo", "a/b", "--dry-run", ""], "--dry-run"),
        (["zoo", "report", "results", ""], "folders"),
        (["zoo", "report", "results", "--out", ""], "--out"),
        (["zoo", "cat", "features", ""], "file"),
        (["zoo", "verify", ""], "out"),
        (["zoo", "search", "features", "a.jpg", "", "--html", "page.html"], "queries"),
        (["zoo-train", "run", "byol_r18_tin32", "--data", "photos", "--out", ""], "--out"),
        (["zoo-train", "run", "byol_r18_tin32", "--data", "", "--out", "run"], "no data at '': the name"),
        (["zoo-train", "ablate", "target", "--data", "", "--out", "run"], "--data"),
        (["zoo-train", "export", "run", "--out", ""], "--out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_empty_path_is_one_line_and_not_the_working_folder(
    command: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", command)
    assert exit_code(APPS[command[0]], command[0], "") == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert f"{what} is empty" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_values_may_be_empty(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``--prefix ""`` of convert is valid: the keys have no prefix."""
    monkeypatch.setattr("sys.argv", ["zoo", "convert", "absent.pth", "--from", "torch", "--prefix", "", "--out", "new"])
    assert exit_code(zoo.cli.main.app, "zoo", "") == EXIT_USER_ERROR
    assert "absent.pth" in capsys.readouterr().err
