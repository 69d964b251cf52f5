"""Every command with ``--data`` reads the same sources, and finds the labels in the same way."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import serve
from forked_commands import run_module
from PIL import Image

import training
from zoo.datasets.labelled import training_splits
from zoo.errors import UserError

NAMES = ("red", "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images, a list of all with the column ``species``, one for each split, and a folder per class."""
    root = tmp_path_factory.mktemp("lists")
    random = np.random.default_rng(0)
    rows = [(f"images/{name}/{number}.png", name) for name in NAMES for number in range(10)]
    for path, _ in rows:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(root / path)
    for file, chosen in (("all.csv", rows), ("train.csv", rows[::2]), ("test.csv", rows[1::2])):
        with (root / file).open("w", newline="") as out:
            csv.writer(out).writerows([("path", "species"), *chosen])
    return root


def commands() -> list[tuple[str, str, set[str]]]:
    from typer.main import get_command

    from training.cli import app as train
    from zoo.cli.main import app as zoo

    found = []
    for program, app in (("zoo", zoo), ("training", train)):
        root: Any = get_command(app)
        found += [(program, name, {o for p in c.params for o in p.opts}) for name, c in root.commands.items()]
    return found


def test_every_command_that_takes_data_takes_the_column_of_its_labels() -> None:
    """``zoo-train recipes --data`` is the name of a data set."""
    taking = {name: options for _, name, options in commands() if "--data" in options and name != "recipes"}
    assert {"run", "ablate", "evaluate", "report"} <= taking.keys()
    assert [name for name, options in taking.items() if "--label-column" not in options] == []


@pytest.mark.parametrize("program", ["zoo", "training"])
def test_an_empty_name_is_not_the_working_folder(program: str, tmp_path: Path) -> None:
    """As ``--data "$DATA"`` gives where the variable is not set."""
    words = {"evaluate": ("knn",), "report": (".", "--out", "r"), "ablate": ("target", "--out", "o")}
    words["run"] = ("simsiam_r18_tin32", "--out", "o")
    words["sweep"] = ("simsiam_r18_tin32", "--out", "o", "--over", "optim.lr=0.1,0.2")
    for owner, name, options in commands():
        if owner == program and "--data" in options and name != "recipes":
            done = run_module(program, name, *words[name], "--data", "", cwd=tmp_path)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), (name, done.stderr)
            assert "--data is empty" in done.stderr or "no data at ''" in done.stderr


@pytest.mark.parametrize("data", ["all.csv", "{split}.csv"])
def test_an_ablation_and_a_report_read_lists(data: str, folder: Path, tmp_path: Path) -> None:
    small = [word for text in ("optim.epochs=1", "optim.batch_size=8", "architecture=r10", "heads.hidden=16",
                               "views.size=16") for word in ("--set", text)]  # fmt: skip
    words = ["stop-gradient", "--data", data, "--label-column", "species", "--out", tmp_path / "out", "--seeds", "1"]
    done = run_module("training", "ablate", *words, "--device", "cpu", *small, cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "stop-gradient.json").read_text())
    sizes = [result["data"][split][1] for split in ("train", "test")]
    assert sizes == ([16, 4] if data == "all.csv" else [10, 10])
    wrong = run_module("training", "ablate", *words[:3], "--out", tmp_path / "other", "--seeds", "1", cwd=folder)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "has no labels" in wrong.stderr


def test_evaluate_and_report_read_a_list_behind_a_url(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    with serve() as server:
        for path in folder.rglob("*.*"):
            server.files[f"/{path.relative_to(folder)}"] = path.read_bytes()
        source = ["--data", f"{server.address}/all.csv", "--label-column", "species", "--device", "cpu"]
        words = ["evaluate", "knn", "--set", "k=3", *source, "--out", tmp_path / "scores" / "knn.json"]
        done = run_module("zoo", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        done = run_module("zoo", "report", tmp_path / "scores", *source, "--out", tmp_path / "report", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert list((tmp_path / "report").glob("neighbours-*.png"))


def test_a_source_without_a_test_split_holds_out_a_fifth_of_each_class(folder: Path) -> None:
    for source, column in ((folder / "images", None), (folder / "all.csv", "species")):
        train, test = training_splits(source, column)
        assert (len(train), len(test)) == (16, 4)
        assert np.bincount(test.required_labels).tolist() == [2, 2]
        names = [{split.row_name(i) for i in range(len(split))} for split in (train, test)]
        assert not names[0] & names[1]
        assert training_splits(source, column)[1].content() == test.content()
    train, test = training_splits(f"{folder}/{{split}}.csv", "species")
    assert (train.name, len(test)) == ("{split}.csv/train", 10)
    with pytest.raises(UserError, match="has no labels"):
        training_splits(folder / "all.csv")


def test_training_from_python_takes_the_column(folder: Path, tmp_path: Path) -> None:
    from tiny_runs import log, tiny

    training.train(tiny("simsiam"), folder / "all.csv", tmp_path / "run", device="cpu", label_column="species")
    assert any("probe" in line for line in log(tmp_path / "run"))
    with pytest.raises(UserError, match="no column colour"):
        training.train(tiny("simsiam"), folder / "all.csv", tmp_path / "other", label_column="colour")
