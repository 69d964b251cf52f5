"""Nothing that a file says reaches the terminal as a command to it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import made_collection
import pytest
from extraction_driver import run
from pictures import fill

from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.cli.messages import print_extraction
from zoo.search import messages
from zoo.search.query import Match, QueryResult
from zoo.system.markdown import markdown_text
from zoo.system.terminal import print_json, print_line, printable

NAME = "a\x1b]0;owned\x07\x9b2J\r\n\u202egpj.\x7f\u2028é 猫\u3000.jpg"
SHOWN = "a\\x1b]0;owned\\x07\\x9b2J\\r\\n\\u202egpj.\\x7f\\u2028é 猫\u3000.jpg"


def is_clean(text: str) -> bool:
    return all(line.isprintable() or "\u3000" in line for line in text.split("\n")) and "\x1b" not in text


def test_control_characters_are_escaped_and_letters_stay() -> None:
    assert printable(NAME) == SHOWN
    assert printable("plain name (1).jpg") == "plain name (1).jpg"
    assert printable(os.fsdecode(b"\xff.jpg")) == "\\udcff.jpg"


def test_json_holds_the_name_itself(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": NAME})
    said = capsys.readouterr().out
    assert is_clean(said)
    assert json.loads(said) == {"path": NAME}


def test_a_stream_is_chosen_when_the_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("out")
    print_line(NAME, file=sys.stderr)
    assert capsys.readouterr() == ("out\n", f"{SHOWN}\n")


def test_failures_of_an_extraction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = fill(tmp_path / "images", 2)
    (images / NAME).write_bytes(b"no image")
    result = run(images, tmp_path / "o\x1b[2Jut")
    print_extraction(result, tmp_path / "o\x1b[2Jut")
    out, err = capsys.readouterr()
    assert SHOWN in err
    assert "o\\x1b[2Jut" in out
    assert is_clean(out)
    assert is_clean(err)


def test_neighbours_of_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = made_collection.make(tmp_path, made_collection.clusters(2, 4), paths=[NAME.encode(), b"\xff\x1b.jpg"])
    found = tuple(Match(item, 0.5) for item in collection.items(0, 2))
    messages.print_results([QueryResult(NAME, tmp_path, found), QueryResult(NAME, tmp_path, error=NAME)], centred=True)
    out, err = capsys.readouterr()
    assert SHOWN in out.replace("\n", "")
    assert is_clean(out)
    assert is_clean(err)


@pytest.mark.parametrize("command", ["index", "verify", "cat", "search"])
def test_a_model_named_by_a_manifest(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o\x1b[2Jut"
    made_collection.make(out, made_collection.clusters(3, 4), frozen=True, model=NAME)
    monkeypatch.setattr("sys.argv", ["zoo", "index", str(out)])
    assert exit_code(app, "zoo", "") == 0
    extra = {"cat": [str(tmp_path / "a\x1b.npy")], "search": [NAME]}.get(command, [])
    monkeypatch.setattr("sys.argv", ["zoo", command, str(out), *extra])
    exit_code(app, "zoo", "")
    for said in capsys.readouterr():
        assert is_clean(said)


def test_markdown_shows_a_name() -> None:
    assert markdown_text("byol_r50.in1k (a, b)") == "byol_r50.in1k (a, b)"
    assert markdown_text("<b>|*`x`\x1b") == "&lt;b&gt;\\|\\*\\`x\\`\\\\x1b"
