"""``--data`` takes what ``--images`` takes; labels come from a column of a usual name or of a given one."""

from __future__ import annotations

import csv
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked_commands import run_module
from PIL import Image

from zoo.datasets.opening import evaluation_splits, has_split, open_dataset, open_training_data
from zoo.errors import UserError
from zoo.sources import open_source

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        for number in range(2):
            Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}{number}.png")
    return tmp_path


def write(path: Path, column: str | None = "label", rows: tuple[str, ...] = ("red0", "blue0", "red1")) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *([column] if column else [])])
        writer.writerows([f"{row}.png", *([row[:-1]] if column else [])] for row in rows)
    return path


@pytest.mark.parametrize("column", ["label", "class", "category", "target"])
def test_a_csv_with_labels(column: str, folder: Path) -> None:
    data = open_training_data(write(folder / "list.csv", column))
    assert data.classes == ["blue", "red"]
    assert data.required_labels.tolist() == [1, 0, 1]
    assert data.row_name(1) == "blue0.png"
    assert tuple(data.pixels(1)[0, 0]) == COLOURS["blue"]
    assert data.content() == open_dataset(folder / "list.csv").content()


def test_a_given_column(folder: Path) -> None:
    source = write(folder / "list.csv", "species")
    assert open_training_data(source).labels is None
    assert open_training_data(source, "species").required_labels.tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="has no column colour"):
        open_training_data(source, "colour")
    with pytest.raises(UserError, match=r"--label-column species: .* is no list"):
        open_training_data(folder, "species")
    table = pa.table({"image": [(folder / "red0.png").read_bytes()] * 2, "label": [0, 0], "species": ["b", "a"]})
    pq.write_table(table, folder / "t.parquet")
    assert open_training_data(folder / "t.parquet", "species").required_labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="has no column colour; it has image, label, species"):
        open_training_data(folder / "t.parquet", "colour")


def test_lists_and_globs_without_labels(folder: Path) -> None:
    (folder / "list.txt").write_text("red1.png\nblue1.png\n")
    for source in (folder / "list.txt", write(folder / "bare.csv", None), f"{folder}/*1.png"):
        data = open_training_data(source)
        assert data.labels is None
        assert data.pixels(0).shape == (8, 8, 3)
        with pytest.raises(UserError, match="has no labels: give it a column label, "):
            _ = data.required_labels
    assert len(open_dataset(f"{folder}/*1.png")) == 2


def test_a_list_for_each_split(folder: Path) -> None:
    write(folder / "train.csv")
    write(folder / "test.csv", rows=("blue1", "red1"))
    source = f"{folder}/{{split}}.csv"
    assert (has_split(source, "train"), has_split(source, "val")) == (True, False)
    train, test = evaluation_splits(source)
    assert (train.required_labels.tolist(), test.required_labels.tolist()) == ([1, 0, 1], [0, 1])


def test_a_file_url_and_a_missing_file_in_a_list(folder: Path) -> None:
    data = open_dataset(f"file://{write(folder / 'list.csv', rows=('red0', 'blue7'))}")
    assert data.required_labels.tolist() == [1, 0]
    with pytest.raises(UserError, match=r"blue7\.png cannot be read"):
        data.image(1)


def test_every_form_of_images_is_data_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``zoo.sources`` documents: as many rows, and the same bytes."""
    red, blue = ((folder / f"{name}0.png").read_bytes() for name in COLOURS)
    (folder / "shards").mkdir()
    for number in range(2):
        pq.write_table(pa.table({"image": [red, blue], "label": [0, 1]}), folder / "shards" / f"a-{number:03d}.parquet")
        with tarfile.open(folder / "shards" / f"a-{number:03d}.tar", "w") as tar:
            tar.add(folder / "red0.png", f"{number}.png")
    (folder / "list.txt").write_text("red0.png\n")
    forms = ("red0.png", "*.png", "shards/a-{000..001}.parquet", "shards/a-*.parquet", "shards/a-000.parquet",
             "shards/a-{000..001}.tar", "shards/a-*.tar", "list.txt", f"file://{folder}/red0.png")  # fmt: skip
    monkeypatch.chdir(folder)
    for form in forms:
        data, source = open_training_data(form), open_source(form)
        rows = source.listing().files.to_pylist()
        assert len(data) == len(rows), form
        assert tuple(data.pixels(0)[0, 0]) in COLOURS.values(), form
    assert open_training_data("shards/a-{000..001}.parquet").required_labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError):
        open_training_data("shards/a-{000..007}.parquet")


def test_a_list_on_standard_input(folder: Path) -> None:
    words = ["zoo-train", "run", "simsiam_r18_tin32", "--data", "-", "--out", "run", "--device", "cpu"]
    words += ["--set", "optim.epochs=1", "--set", "optim.batch_size=4"]
    names = "".join(f"{path.name}\n" for path in sorted(folder.glob("*.png")))
    code = "import sys; from training.cli import main; main()"
    command = [sys.executable, "-c", code, *words[1:]]
    done = subprocess.run(command, cwd=folder, input=names, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    labels = subprocess.run(
        [*command, "--label-column", "species"], cwd=folder, input=names, capture_output=True, text=True, check=False
    )
    assert (labels.returncode, labels.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("splits", [True, False])
def test_folders_of_hugging_face(splits: bool, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (8, 8), colour) for colour in COLOURS.values()]
    made = datasets.Dataset.from_dict({"image": images, "label": [0, 1]}).cast_column("image", datasets.Image())
    (datasets.DatasetDict({"train": made, "test": made}) if splits else made).save_to_disk(tmp_path / "saved")
    if splits:
        train, test = evaluation_splits(tmp_path / "saved")
        assert np.array_equal(train.required_labels, test.required_labels)
    else:
        train = open_training_data(tmp_path / "saved")
    assert train.required_labels.tolist() == [0, 1]
    assert tuple(train.pixels(1)[0, 0]) == COLOURS["blue"]


def test_a_list_is_scored_and_trained_on_by_the_commands(tmp_path: Path) -> None:
    """``zoo evaluate`` holds out a part of a list, and takes one for each split; ``zoo-train`` reads it, too."""
    random = np.random.default_rng(0)
    for name in COLOURS:
        for number in range(10):
            Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{name}{number}.png")
    rows = tuple(f"{name}{number}" for name in COLOURS for number in range(10))
    write(tmp_path / "train.csv", "species", rows=rows)
    write(tmp_path / "test.csv", "species", rows=rows[::3])
    for number, data in enumerate(("train.csv", "{split}.csv")):
        words = ["evaluate", "knn", "--set", "k=3", "--device", "cpu", "--data", data, "--out", f"scores{number}"]
        words += ["--label-column", "species"]
        done = run_module("zoo", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    words = [
        "run",
        "simsiam_r18_tin32",
        "--data",
        "train.csv",
        "--out",
        "run",
        "--device",
        "cpu",
        "--label-column",
        "species",
    ]
    words += ["--set", "optim.epochs=1", "--set", "optim.batch_size=8", "--set", "optim.warmup_epochs=0"]
    done = run_module("training", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
