"""From the command's words to a run: whatever the images lie in, the same images give the same run."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_runs import assert_same_state, last, tiny

from training import launch as launching
from training.launch import launch
from training.recipes import table
from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_dataset

OPTIONS: dict[str, Any] = {"overrides": [], "device": "cpu", "resume": False}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, images: np.ndarray, labels: list[int]) -> str:
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        (root / str(label) / f"{number:03d}.png").write_bytes(png(pixels))
    return str(root)


def parquet(root: Path, images: np.ndarray, labels: list[int]) -> str:
    pq.write_table(pa.table({"image": [png(i) for i in images], "label": labels}), root.with_suffix(".parquet"))
    return str(root.with_suffix(".parquet"))


def hugging_face(root: Path, images: np.ndarray, labels: list[int]) -> str:
    """Two shards of a split, as `datasets` writes them."""
    root.mkdir()
    rows = [{"bytes": png(i), "path": None} for i in images]
    for shard, part in enumerate((slice(0, 10), slice(10, None))):
        pq.write_table(pa.table({"image": rows[part], "label": labels[part]}), root / f"train-{shard}.parquet")
    return str(root)


def webdataset(root: Path, images: np.ndarray, labels: list[int]) -> str:
    root.mkdir()
    for shard, part in enumerate((range(10), range(10, len(images)))):
        with tarfile.open(root / f"shard-{shard:03d}.tar", "w") as tar:
            for row in part:
                for suffix, data in (("png", png(images[row])), ("cls", str(labels[row]).encode())):
                    member = tarfile.TarInfo(f"{row:03d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(root / "shard-{000..001}.tar")


def npy(root: Path, images: np.ndarray, labels: list[int]) -> str:
    np.save(root.with_suffix(".npy"), images)
    np.save(root.with_suffix(".labels.npy"), np.array(labels))
    return str(root.with_suffix(".npy"))


def npz(root: Path, images: np.ndarray, labels: list[int]) -> str:
    np.savez(root.with_suffix(".npz"), train_images=images, train_labels=np.array(labels), test_images=images[:2])
    return str(root.with_suffix(".npz"))


@pytest.fixture(scope="module")
def pictures(labelled_folder: Path) -> tuple[np.ndarray, list[int]]:
    dataset = open_dataset(labelled_folder)
    pixels = [np.array(dataset.image(i).resize((40, 40))) for i in range(0, len(dataset), 2)]
    return np.stack(pixels), [n // 12 for n in range(len(pixels))]


@pytest.mark.parametrize("write", [parquet, hugging_face, webdataset, npy, npz])
def test_every_source_of_the_same_images_gives_the_same_run(
    write: Callable[..., str], pictures: tuple[np.ndarray, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("supervised", optim={"epochs": 1})
    monkeypatch.setattr(table, "find", lambda name: recipe)
    for name, source in (("a", folder(tmp_path / "folder", *pictures)), ("b", write(tmp_path / "data", *pictures))):
        launch("tiny", source, tmp_path / name, **OPTIONS)
    assert_same_state(last(tmp_path / "a"), last(tmp_path / "b"))


def test_in_memory_every_image_is_decoded_once_and_the_run_is_the_same(
    labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("simsiam")
    monkeypatch.setattr(table, "find", lambda name: recipe)
    original = launching.open_training_data
    read: list[int] = []

    def counted(source: str, *arguments: str | None) -> Dataset:
        dataset = original(source, *arguments)
        pixels = dataset._read
        object.__setattr__(dataset, "_read", lambda row: (read.append(row), pixels(row))[1])
        return dataset

    monkeypatch.setattr(launching, "open_training_data", counted)
    counts = []
    for in_memory in (False, True):
        read.clear()
        launch("tiny", str(labelled_folder), tmp_path / str(in_memory), in_memory=in_memory, **OPTIONS)
        counts.append(len(read))
    assert counts[0] == 80 + 46  # two epochs of five batches of eight, and all for the content of the data
    assert set(read) == set(range(46))  # all, twice: the first ones tell whether the rest fits into memory
    assert counts[1] == 92 + 46
    assert_same_state(last(tmp_path / "False"), last(tmp_path / "True"))
