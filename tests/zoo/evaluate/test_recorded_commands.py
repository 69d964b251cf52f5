"""The command in a result runs the evaluation again, and gives the same score."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from annotated import coco, depth_images, label_images
from pictures import encode, picture
from typer.testing import CliRunner

from zoo.cli import main
from zoo.datasets.labelled import open_splits
from zoo.evaluate.context import Context
from zoo.evaluate.protocols import PROTOCOLS
from zoo.evaluate.run import command_line, evaluate


@pytest.fixture
def folder(tmp_path: Path, tiles: Path, tiny_weights: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data sets, weights and lists in it."""
    folder = tmp_path / "work"
    shutil.copytree(tiles, folder / "data" / "tiles")
    shutil.copy(tiny_weights, folder / "tiny.safetensors")
    monkeypatch.chdir(folder)
    return folder


def again(result: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Run the recorded command with an empty cache, and return its JSON."""
    assert isinstance(result, dict)
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(folder / "other-cache"))
    words = shlex.split(result["command"])
    assert words[:2] == ["zoo", "evaluate"]
    done = CliRunner().invoke(main.app, [*words[1:], "--out", "again.json"])
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads((folder / "again.json").read_text())
    return found


def require_same(result: object, repeated: dict[str, object]) -> None:
    assert isinstance(result, dict)
    for key in ("score", "interval_95", "metrics", "parameters", "data", "model", "options", "command", "details"):
        assert repeated[key] == result[key], key


TILES = Path("data") / "tiles"
QUICK: dict[str, dict[str, str]] = {
    "knn": {"k": "3,5"},
    "linear": {"l2": "1e-2,1"},
    "linear-sgd": {"epochs": "1", "batch": "16", "lr": "1,0.1", "held_out": "held-out.txt"},
    "linear-lars": {"epochs": "1", "batch": "16", "lr": "10,1"},
    "linear-moco": {"epochs": "1", "batch": "16", "lr": "1", "size": "32"},
    "semi-supervised": {"percent": "10", "lr": "0.05", "epochs": "1", "batch": "8", "seeds": "2"},
    "transfer": {"mode": "fine-tuned", "steps": "2", "batch": "8", "lr": "0.02"},
    "segment": {"iterations": "1", "batch_size": "2", "crop": "32", "short_side": "32", "lrs": "0.1", "width": "8"},
    "depth": {"iterations": "1", "batch_size": "2", "crop": "32,24", "short_side": "24", "decoder": "8,8,4,4",
              "lrs": "0.001"},
    "detect": {"iterations": "1", "sizes": "48", "test_size": "48", "max_size": "96", "precise": "1", "pool": "6",
               "anchors": "16,24", "rois": "16", "proposals_before": "100,60", "proposals": "60,16"},
}  # fmt: skip
DENSE = {"segment", "depth", "detect"}


def dense_data(protocol: str, data: Path) -> None:
    if protocol == "segment":
        for split, photos in (("train", range(2)), ("val", range(2, 3)), ("test", range(3, 5))):
            label_images(data, split, photos, void=255)
    elif protocol == "depth":
        depth_images(data, range(5))
    else:
        coco(data, "train", range(2))
        coco(data, "val", range(2, 4))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_recorded_command_gives_the_same_score(
    protocol: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, subset_files = TILES, None
    train = open_splits(TILES).train
    if protocol == "semi-supervised":
        for row, name in enumerate(sorted((folder / TILES / "train").rglob("*.png"))):
            name.rename(name.with_name(f"n{row}.png"))  # the lists have file names alone
        subset_files = Path("lists")
        subset_files.mkdir()
        (subset_files / "10percent.txt").write_text("".join(f"n{n}.png\n" for n in range(0, 64, 6)))
    if protocol == "linear-sgd":
        (folder / "held-out.txt").write_text("".join(f"{train.row_name(n)}\n" for n in range(0, 64, 9)))
    if protocol in DENSE:
        data = Path("data") / protocol
        dense_data(protocol, folder / data)
    result = evaluate(
        protocol,
        "tiny.safetensors",
        data,
        seed=3,
        settings=QUICK[protocol],
        subset_files=subset_files,
        schedule="small" if protocol in DENSE else None,
    )
    if subset_files is not None:
        assert result["parameters"]["labels"] == "published lists"
    require_same(result, again(result, folder, monkeypatch))


def test_the_recorded_command_has_the_root_of_a_named_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for n in range(12):
            path = folder / "sets" / "birdsnap" / split / f"bird{n % 2}" / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(picture(40, 30, int(rng.integers(10_000))), "PNG"))
    settings = {"l2": "1e-2,1", "size": "32"}
    result = evaluate("transfer", "tiny.safetensors", Path("birdsnap"), root=Path("sets"), settings=settings)
    assert "--data birdsnap --root sets" in result["command"]
    require_same(result, again(result, folder, monkeypatch))


def test_absolute_paths_are_cut_to_their_last_name(folder: Path) -> None:
    context = Context(
        "linear-sgd",
        str(folder / "tiny.safetensors"),
        folder / "data" / "tiles",
        device="cpu",
        settings={"held_out": str(folder / "list.txt"), "lr": "1"},
        root=folder / "sets",
        subset_files=folder / "lists",
    )
    assert command_line(context) == (
        "zoo evaluate linear-sgd --model tiny.safetensors --data tiles --root sets --subset-files lists "
        "--set held_out=list.txt --set lr=1 --device cpu"
    )
    named = Context("knn", "tiny.safetensors", Path("torchvision:CIFAR10:/somewhere/data"), device="cpu")
    assert "--data torchvision:CIFAR10:data --device cpu" in command_line(named)
