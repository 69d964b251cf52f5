"""Numbers in environment variables are read, or refused in one line."""

from __future__ import annotations

import os

import pytest

from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.errors import EXIT_USER_ERROR, UserError
from zoo.extraction.partition import own_partition
from zoo.system.environment import require_readable_by_the_hub, seconds, whole_number
from zoo.system.hardware import usable_cores

NAME = "SIAMESE_ZOO_TEST"


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "1e3", "1_0", "٣", "0x1", "9" * 5000, "1 2", "²"])
def test_a_variable_that_is_no_whole_number_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, text)
    with pytest.raises(UserError, match=rf"^the environment variable {NAME} is [^\n]{{1,70}}: set a whole[^\n]*$"):
        whole_number(NAME, 1)


@pytest.mark.parametrize(("text", "value"), [(" 7 ", 7), ("0", 0), ("", 3), ("  ", 3)])
def test_a_whole_number_is_read(text: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert whole_number(NAME, 3) == 3
    monkeypatch.setenv(NAME, text)
    assert whole_number(NAME, 3) == value


@pytest.mark.parametrize("text", ["abc", "-1", "0", "nan", "inf", "1e999"])
def test_a_time_that_is_none_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds(NAME, 2.5) == 2.5
    monkeypatch.setenv(NAME, text)
    with pytest.raises(UserError, match=rf"^the environment variable {NAME} is [^\n]*number of seconds"):
        seconds(NAME, 2.5)
    monkeypatch.setenv(NAME, "0.5")
    assert seconds(NAME, 2.5) == 0.5


@pytest.mark.parametrize("text", ["0", "-3", "abc"])
@pytest.mark.parametrize("name", ["SIAMESE_ZOO_CORES", "LOCAL_WORLD_SIZE"])
def test_cores_are_from_one(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=rf"{name} is '{text}': set a whole number from 1"):
        usable_cores()


@pytest.mark.parametrize(
    ("ranks", "rank", "message"),
    [("two", "0", "WORLD_SIZE is 'two'"), ("2", None, "RANK is ''"), ("2", "-1", "RANK is '-1'"), ("2", "2", "RANK=2")],
)
def test_ranks_that_torchrun_did_not_set_are_one_line(
    ranks: str, rank: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", ranks)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match=message):
        own_partition(None)


@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
@pytest.mark.parametrize("text", ["abc", "", "1.5"])
def test_what_huggingface_hub_cannot_parse_is_one_line_of_every_command(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "30")
    require_readable_by_the_hub()
    monkeypatch.setenv(name, text)
    monkeypatch.setattr("sys.argv", ["zoo", "list"])
    assert exit_code(app, "zoo", "again") == EXIT_USER_ERROR
    assert capsys.readouterr().err.splitlines() == [
        f"zoo: error: the environment variable {name} is '{text}': set a whole number of seconds, or unset it"
    ]
    assert os.environ[name] == text
