"""What every command of ``zoo`` and ``zoo-train`` does alike: interruptions, pipes, help, home folders, verbosity."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

import training.cli
import zoo.cli.main
from zoo.cli.app import exit_code
from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR

APPS = {"zoo": zoo.cli.main.app, "zoo-train": training.cli.app}
MODULES = {"zoo": "zoo", "zoo-train": "training"}
PHOTOS = Path(__file__).parents[3] / "examples" / "photos"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    return exit_code(APPS[str(words[0])], str(words[0]), "run the same command again to go on")


def started(*words: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", MODULES[str(words[0])], *map(str, words[1:])]
    return subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(number: signal.Signals, twice: bool, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for i in range(3000):
        os.link(PHOTOS / "rocket.jpg", images / f"{i:04}.jpg")
    process = started("zoo", "extract", "--images", images, "--out", out, "--backend", "torch", "--shard-size", "16")
    deadline = time.monotonic() + 120
    while not list(out.glob("embeddings-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    if twice:
        process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert said.splitlines()[-1] == "zoo: interrupted: run the same command again to go on"
    assert "Traceback" not in said


@pytest.mark.parametrize("program", APPS)
def test_an_interruption_of_any_command_is_told(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.cli.model_json.print_list_json", interrupt)
    monkeypatch.setattr("training.messages.print_recipes", interrupt)
    words = ("list", "--json") if program == "zoo" else ("recipes",)
    assert run(monkeypatch, program, *words) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == f"{program}: interrupted: run the same command again to go on\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("zoo", "list"), ("zoo", "list", "--json"), ("zoo", "-h"), ("zoo-train", "recipes")])
def test_a_reader_that_stops_early_is_no_error(words: tuple[str, ...], unbuffered: str) -> None:
    process = started(*words, PYTHONUNBUFFERED=unbuffered)
    assert process.stdout is not None
    process.stdout.close()  # before anything is printed
    assert process.stderr is not None
    with process.stderr as said:
        assert said.read() == ""
    assert process.wait(timeout=60) == EXIT_OK


@pytest.mark.parametrize(
    ("words", "help"),
    [
        (("zoo", "extract", "--imges", "x"), "zoo extract"),
        (("zoo", "extract", "--out", "x"), "zoo extract"),
        (("zoo", "evaluate", "knnn", "--data", "x"), "zoo evaluate"),
        (("zoo", "extract", "x", "--out", "y", "--batch-size", "0"), "zoo extract"),
        (("zoo", "extract", "x", "--out", "y", "--precision", "fp8"), "zoo extract"),
        (("zoo", "list", "--sort", "scor"), "zoo list"),
        (("zoo", "extrct"), "zoo"),
        (("zoo-train", "run"), "zoo-train run"),
        (("zoo-train", "run", "byol_r18_tin32", "--data", "x", "--out", "y", "--resum"), "zoo-train run"),
    ],
)
def test_a_wrong_option_names_the_help_of_its_command(
    words: tuple[str, ...], help: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert re.search(rf"[.?)] See `{help} --help`\.\n$", said), said
    assert said.count("\n") == 1
    assert "Value error" not in said


@pytest.mark.parametrize("words", [("zoo",), ("zoo", "extract"), ("zoo-train",), ("zoo-train", "run")])
def test_h_is_help(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, *words, "-h") == EXIT_OK
    short = capsys.readouterr().out
    assert run(monkeypatch, *words, "--help") == EXIT_OK
    assert capsys.readouterr().out == short
    assert short.startswith(f"Usage: {' '.join(words)} ")


@pytest.mark.parametrize("name", ["zoo", "zoo-train"])
def test_the_first_screen_cuts_no_sentence_and_says_how_to_begin(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, name) == EXIT_OK
    said = capsys.readouterr().out.rstrip()
    commands = said.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) == len(typer.main.get_command(APPS[name]).commands)  # type: ignore[attr-defined]
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)
    assert said.splitlines()[-1].startswith(f"  Begin with `{name} ")
    assert len(said.splitlines()) <= 32


def test_a_home_folder_in_quotes_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for words in (("verify", "~/out"), ("cat", "~/out", "x.csv"), ("index", "~/out")):
        assert run(monkeypatch, "zoo", *words) == EXIT_USER_ERROR
        assert str(tmp_path / "out") in capsys.readouterr().err
    for option in (("--images", "~/photos"), ("--images=~/photos",)):
        assert run(monkeypatch, "zoo", "extract", *option, "--out", tmp_path / "out") == EXIT_USER_ERROR
        assert str(tmp_path / "photos") in capsys.readouterr().err
    assert run(monkeypatch, "zoo-train", "run", "byol_r18_tin32", "--data=~/data", "--out", "run") == EXIT_USER_ERROR
    assert str(tmp_path / "data") in capsys.readouterr().err


def test_quiet_prints_failures_only_and_verbose_tells_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    os.link(PHOTOS / "rocket.jpg", images / "a.jpg")
    words = ("zoo", "extract", "--images", images, "--out", tmp_path / "out", "--backend", "torch", "--device", "cpu")
    assert run(monkeypatch, *words, "--quiet") == EXIT_OK
    assert run(monkeypatch, "zoo", "verify", tmp_path / "out", "-q") == EXIT_OK
    assert run(monkeypatch, "zoo", "cat", tmp_path / "out", tmp_path / "all.csv", "-q") == EXIT_OK
    assert capsys.readouterr() == ("", "")
    assert run(monkeypatch, "zoo", "verify", tmp_path, "--quiet") == EXIT_USER_ERROR
    assert capsys.readouterr().err.startswith("zoo: error: ")
    assert run(monkeypatch, "zoo", "verify", tmp_path, "--verbose") == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("siamese-zoo ")
    assert "Traceback" in said
    assert run(monkeypatch, "zoo", "verify", tmp_path / "out") == EXIT_OK  # the level is of one command
    assert "every hash agrees" in capsys.readouterr().out
