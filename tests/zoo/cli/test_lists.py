"""``zoo list``, ``zoo info`` and ``zoo-train recipes``: filters, one row a line, and what fits a screen."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import written_to

import training.cli
import zoo.cli.main
from training.recipes.table import RECIPES
from zoo.cli.app import exit_code
from zoo.cli.default_model import default_note
from zoo.errors import EXIT_OK, EXIT_USER_ERROR
from zoo.models.registry import MODELS

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"
NOTE = "is a small demo network; for real work --model"


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    monkeypatch.setattr("sys.argv", list(words))
    app = zoo.cli.main.app if words[0] == "zoo" else training.cli.app
    assert exit_code(app, words[0], "") == EXIT_OK
    return capsys.readouterr().out.splitlines()


def test_the_list_has_a_line_for_each_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head, *rows = lines(monkeypatch, capsys, "zoo", "list")
    assert head.split() == ["name", "input", "dim", "params", "top-1", "licence", "download"]
    assert [row.split()[0] for row in rows] == list(MODELS)
    assert "mocov2_r50 224 2048 23.5 M 71.1 MIT 1 GB" in [" ".join(row.split()) for row in rows]
    assert max(map(len, rows)) <= 80
    tags = lines(monkeypatch, capsys, "zoo", "list", "--tags")[1:]
    assert len(tags) == sum(len(spec.weights) or 1 for spec in MODELS.values())


def test_filters_and_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*options: str) -> list[str]:
        return [row.split()[0] for row in lines(monkeypatch, capsys, "zoo", "list", *options)[1:]]

    commercial = names("--licence", "commercial", "--max-params", "25", "--sort", "score")
    assert commercial[:3] == ["supervised_r50", "dino_r50", "barlowtwins_r50"]
    assert "byol_r50" not in commercial
    unknown = names("--licence", "unknown")  # nobody has permitted anything
    assert unknown == ["instdisc_r18", "localagg_r18"]
    commercial_or_not = {*names("--licence", "non-commercial"), *names("--licence", "commercial")}
    assert commercial_or_not == {name for name, spec in MODELS.items() if spec.weights} - {*unknown}
    assert names("--licence", "mit")[:3] == ["simclr_r101", "mocov2_r50", "mocov1_r50"]
    assert names("--method", "swav", "--sort", "params")[-1] == "swav_r50x5"
    # Capitals do not matter: they gave a list without a row.
    assert names("--method", "SwAV") == names("--method", "swav") != []
    assert names("--licence", "Commercial") == names("--licence", "commercial")
    assert names("--licence", "NON-commercial") == names("--licence", "non-commercial") != names()
    for option, message in (("--licence", "choose from commercial, non-commercial, Apache"), ("--method", "byol")):
        monkeypatch.setattr("sys.argv", ["zoo", "list", option, "nothing"])
        assert exit_code(zoo.cli.main.app, "zoo", "") == EXIT_USER_ERROR
        assert message in capsys.readouterr().err


def test_the_list_is_searched_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*words: str) -> list[str]:
        return [line.split()[0] for line in lines(monkeypatch, capsys, "zoo", "list", *words)[1:]]

    assert names("MOCO") == [name for name in MODELS if "moco" in name]
    assert names("byol_r50*") == ["byol_r50", "byol_r50x2", "byol_r50x4"]
    assert names("byol", "--licence", "commercial") == ["byol_r18_mini"]
    assert names("simclr_r18_mini", "--tags") == ["simclr_r18_mini.tin64", "simclr_r18_mini.tin32"]
    monkeypatch.setattr("sys.argv", ["zoo", "list", "boyl_r50"])
    assert exit_code(zoo.cli.main.app, "zoo", "") == EXIT_USER_ERROR
    assert "no model is called 'boyl_r50': did you mean byol_r50? `zoo list` shows all" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*MODELS, *(f"{n}.{tag}" for n, spec in MODELS.items() for tag in spec.weights)])
def test_info_fits_a_screen(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(monkeypatch, capsys, "zoo", "info", name)
    rows = sum(-(-len(line) // 100) for line in shown)  # a terminal breaks what is longer, such as an address
    assert rows < 24  # and the prompt below
    full = lines(monkeypatch, capsys, "zoo", "info", name, "--full")
    assert all(any(tag in line for line in full) for tag in MODELS[name.partition(".")[0]].weights)


def test_info_refuses_a_tag_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["zoo", "info", "mocov2_r50.x"])
    assert exit_code(zoo.cli.main.app, "zoo", "") == EXIT_USER_ERROR
    assert "its tags: fair_in1k_800ep, fair_in1k_200ep" in capsys.readouterr().err


def test_recipes_fit_and_can_be_chosen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = lines(monkeypatch, capsys, "zoo-train", "recipes")
    assert [row.split()[0] for row in rows] == list(RECIPES)
    assert max(map(len, [head, *rows])) <= 100
    found = lines(monkeypatch, capsys, "zoo-train", "recipes", "r50", "--method", "mocov2", "--max-epochs", "200")[1:]
    assert [row.split()[0] for row in found] == [
        name for name, entry in RECIPES.items()
        if "r50" in name and entry.make().method == "mocov2" and entry.make().optim.epochs <= 200
    ]  # fmt: skip
    tiny = lines(monkeypatch, capsys, "zoo-train", "recipes", "--data", "tiny", "--full")
    assert tiny[0].split()[-2:] == ["hardware", "source"]
    assert all("Tiny-ImageNet" in row for row in tiny[1:])
    for options in (("--method", "mocov9"), ("--data", "x"), ("nothing_like_it",)):
        monkeypatch.setattr("sys.argv", ["zoo-train", "recipes", *options])
        assert exit_code(training.cli.app, "zoo-train", "") == EXIT_USER_ERROR


def test_a_terminal_gets_the_columns_explained(tmp_path: Path) -> None:
    """A real terminal: a pseudo one."""
    for module, words, wanted in (
        ("zoo", ["list"], b"default of `zoo extract`"),
        ("training", ["recipes"], b"[B]: BYOL"),
    ):
        parent, child = pty.openpty()
        process = subprocess.Popen([sys.executable, "-m", module, *words], stdout=child, stderr=subprocess.DEVNULL)
        os.close(child)
        said = written_to(parent)
        assert process.wait(60) == EXIT_OK
        assert wanted in said
        assert (b"\r\n\r\nsimsiam_r18 " in said) == (module == "zoo")  # a gap between methods


def test_the_default_network_is_told_once_per_folder_and_not_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert default_note() == (
        "simclr_r18_mini is a small demo network; for real work --model mocov2_r50 (MIT, 71.1 % ImageNet) or "
        "byol_r50 (non-commercial, 74.4 %)"
    )
    (tmp_path / "images").mkdir()
    os.link(PHOTOS / "rocket.jpg", tmp_path / "images" / "a.jpg")

    def told(out: str, *options: str) -> int:
        words = ["zoo", "extract", "--images", str(tmp_path / "images"), "--out", str(tmp_path / out)]
        monkeypatch.setattr("sys.argv", [*words, "--backend", "torch", "--device", "cpu", *options])
        assert exit_code(zoo.cli.main.app, "zoo", "") == EXIT_OK
        caught = capsys.readouterr()
        assert NOTE not in caught.out
        return caught.err.count(NOTE)

    assert [told("a"), told("a"), told("b", "--quiet"), told("b")] == [1, 0, 0, 0]
    assert [told("e", "--shard", "1/2"), told("f", "--shard", "0/2")] == [0, 1]  # one of several processes
    assert told("c", "--model", "byol_r18_mini") == 0
    assert told("d", "--model", "simclr_r18_mini.random") == 0
