"""Names of options and commands that somebody guesses who knows other programs."""

from __future__ import annotations

import pytest

import training.cli
import zoo.cli.main
from zoo.cli.app import exit_code
from zoo.cli.guesses import _COMMANDS, _OPTIONS
from zoo.errors import EXIT_OK, EXIT_USER_ERROR

APPS = {"zoo": zoo.cli.main.app, "zoo-train": training.cli.app}


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    words = line.split()
    monkeypatch.setattr("sys.argv", words)
    return exit_code(APPS[words[0]], words[0], "")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("zoo extract --input photos --out o", "Did you mean --images?"),
        ("zoo extract photos --output o", "Did you mean --out?"),
        ("zoo extract photos --output_dir o", "Did you mean --out?"),
        ("zoo extract photos -o o", "Did you mean --out?"),
        ("zoo extract photos --out o --batch 8", "Did you mean --batch-size?"),
        ("zoo extract photos --out o --gpu", "Did you mean --device?"),
        ("zoo extract photos --out o --num-workers=2", "Did you mean --workers?"),
        ("zoo extract photos --out o --fp16", "Did you mean --precision?"),
        ("zoo extract photos --out o --recursive", "(a folder is read with all folders below it)"),
        ("zoo extract photos --out o --overwrite", "(nothing is overwritten"),
        ("zoo extract photos --out o --resume", "(the same command continues"),
        ("zoo evaluate knn --input photos", "Did you mean --data?"),
        ("zoo search o a.jpg --top-k 3", "Did you mean -k?"),
        ("zoo list --license MIT", "Did you mean --licence?"),
        ("zoo-train run byol_r18_tin32 --data d --out o --lr 0.1", "Did you mean --set?"),
        ("zoo-train run byol_r18_tin32 --input d --out o", "Did you mean --data?"),
        ("zoo embed photos", "Did you mean 'extract'?"),
        ("zoo predict photos", "Did you mean 'extract'?"),
        ("zoo models", "Did you mean 'list'?"),
        ("zoo download byol_r50", "Did you mean 'fetch'?"),
        ("zoo train --data d", "Did you mean 'zoo-train run'?"),
        ("zoo-train train --data d", "Did you mean 'run'?"),
        ("zoo-train extract photos", "Did you mean 'zoo extract'?"),
        ("zoo extract a.jpg b.jpg c.jpg --out o", "(b.jpg c.jpg). IMAGES is one source: quote a glob"),
        ("zoo extract --images a.jpg b.jpg c.jpg --out o", "IMAGES is one source: quote a glob"),
        ("zoo plan a.jpg b.jpg --out o --parts 2", "IMAGES is one source: quote a glob"),
        ("zoo verify o p", "extra argument(s) (p). See"),
        ("zoo extract photos -o o", "No such option: -o. Did you mean --out?"),
        ("zoo extract photos o", "Missing option '--out': Folder for embeddings-*.parquet"),
        ("zoo info", "Missing argument 'name': NAME or NAME.tag; a file"),
        ("zoo-train run byol_r18_tin32 --data d", "Missing option '--out': Folder for checkpoints"),
        ("zoo evaluate", "Missing argument 'protocol'. Choose from: knn, "),
        ("zoo lst", "Did you mean 'list'?"),
        ("zoo extract photos --out o --normlize", "(Possible options: --normalize"),
        ("zoo extract photos --out o --wrong-altogether", "No such option: --wrong-altogether."),
    ],
)
def test_a_guess_of_another_program_names_ours(
    line: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, line) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert meant in error
    assert error.count("\n") == 1
    assert "--help`" in error


def test_a_glob_that_the_shell_expanded_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = " ".join(f"photos/{number:04}.jpg" for number in range(1000))
    assert run(monkeypatch, f"zoo extract {images} --out o") == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert "photos/0001.jpg photos/0002.jpg" in error
    assert len(error) < 300


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("zoo help", "Usage: zoo "),
        ("zoo help extract", "Usage: zoo extract "),
        ("zoo-train help run", "Usage: zoo-train run "),
        ("zoo version", "siamese-zoo "),
    ],
)
def test_help_and_version_are_words_too(
    line: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, line) == EXIT_OK
    assert capsys.readouterr().out.startswith(shown)


def test_every_name_that_is_meant_exists() -> None:
    groups = {name: [app, *(g.typer_instance for g in app.registered_groups)] for name, app in APPS.items()}
    commands = {
        command if name == "zoo" else f"{name} {command}"
        for name, apps in groups.items()
        for one in apps
        for command in (c.name or (c.callback.__name__ if c.callback else "") for c in one.registered_commands)
    }
    for meant in _COMMANDS:
        assert {name for name in meant if " " in name} <= {f"zoo {c}" for c in commands} | commands
    assert all(option.startswith("-") for meant in _OPTIONS for option in meant)
