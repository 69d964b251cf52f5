"""Results, caches, models and runs of earlier versions still open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import add_tiny_architecture, last

import zoo
from training.engine.loop import train
from training.recipes.config import from_json
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.export.onnx_cache import cached_onnx
from zoo.hub.weights import locate

OLD = Path(__file__).parent / "v0_2"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["zoo", *map(str, words)])
    return exit_code(app, "zoo", "")


@pytest.mark.parametrize("name", ["parquet", "npy"])
def test_a_result_folder_verifies_and_merges(old: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "verify", old / name) == 0
    assert run(monkeypatch, "cat", old / name, old / "whole.npy") == 0
    whole = np.load(old / "whole.npy")
    assert whole.shape == (6, 512)
    missing = np.isnan(whole).all(axis=1)
    statuses = pq.read_table(old / "whole.parquet")["status"].to_pylist()
    assert missing.tolist() == [status != "ok" for status in statuses]
    assert missing.sum() == (1 if name == "parquet" else 2)  # an unreadable file, and with --dedupe a copy


@pytest.mark.parametrize("name", ["parquet", "npy"])
def test_an_altered_shard_of_an_old_folder_is_found(old: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = old / name / "embeddings-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert run(monkeypatch, "verify", old / name) == 2


OPTIONS = {"parquet": (), "npy": ("--format", "npy", "--dedupe", "--layers", "layer1", "--dtype", "float16")}


@pytest.mark.parametrize("name", ["parquet", "npy"])
def test_an_old_run_is_finished_or_refused_by_name(
    old: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the versions that made it nothing is left to do; with others the difference is named. Nothing changes."""
    before = files_of(old / name)
    words = ("extract", "--images", old / "photos", "--out", old / name, "--backend", "torch", "--shard-size", "4")
    code = run(monkeypatch, *words, *OPTIONS[name])
    said = capsys.readouterr().err
    if same_versions(old / name):
        assert (code, "nothing left to do" in said) == (3, True), said  # one file is no image
    else:
        assert (code, "differs in versions." in said or "differs in decoder." in said) == (2, True), said
    assert files_of(old / name) == before


def same_versions(folder: Path) -> bool:
    """Whether the libraries that decide the bytes are those of the old run."""
    import platform

    import PIL
    import pyarrow
    import timm

    made = json.loads((folder / "manifest.json").read_text())
    here = {
        "numpy": np.__version__,
        "pyarrow": pyarrow.__version__,
        "python": platform.python_version(),
        "siamese-zoo": zoo.__version__,
        "timm": timm.__version__,
        "torch": torch.__version__.partition("+")[0],
    }
    return bool(made["versions"] == here and made["decoder"]["version"] == PIL.__version__)


def test_an_index_is_searched(old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photo = old / "photos" / "cow_meadow.jpg"
    assert run(monkeypatch, "search", old / "parquet", photo, "-k", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["queries"][0]["neighbours"][0]["path"] == "cow_meadow.jpg", found


def test_a_converted_model_gives_the_same_embeddings() -> None:
    photos = sorted(path for path in (OLD / "photos").iterdir() if path.name != "zz_bad.jpg")
    expected = np.load(OLD / "byol_r14.embeddings.npy")
    embedder = zoo.load(OLD / "byol_r14", device="cpu")
    found = embedder(photos)
    assert found.shape == expected.shape == (5, 256)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert embedder.heads is not None


def test_a_published_onnx_file_gives_the_same_embeddings() -> None:
    photos = sorted(path for path in (OLD / "photos").iterdir() if path.name != "zz_bad.jpg")
    expected = np.load(OLD / "byol_r14.embeddings.npy")
    found = zoo.load(OLD / "model.onnx")(photos)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_cached_onnx_file_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name would make the file again, and leave the old one in the cache for ever."""
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path))
    made: list[Path] = []

    def make(file: object, precision: str, weight_bits: int, path: Path, stamp: Path) -> None:
        made.append(path)

    monkeypatch.setattr("zoo.export.onnx_cache._make", make)
    assert cached_onnx(locate("simclr_r18_mini.tin32"), "fp32") == made[0]
    assert made[0].name == "simclr_r18_mini.tin32-fp32-2221fdda279d41c8a939.onnx"


def test_a_training_run_goes_on(old: Path) -> None:
    add_tiny_architecture()
    expected = last(old / "run")
    checkpoints = json.loads((old / "run" / "last.json").read_text())
    (old / "run" / "last.json").write_text(json.dumps(checkpoints[1:]))
    (old / "run" / checkpoints[0]["file"]).unlink()
    assert last(old / "run")["step"] == 3
    recipe = from_json(expected["recipe"])
    train(recipe, open_dataset(old / "labelled"), old / "run", device="cpu", resume=True)
    resumed = last(old / "run")
    assert resumed["step"] == expected["step"] == 4
    assert resumed["method"].keys() == expected["method"].keys()
    for name, value in expected["method"].items():
        error = (resumed["method"][name].double() - value.double()).abs().max()
        assert error <= 1e-5 * value.double().abs().max().clamp(min=1e-3), name


def test_a_training_run_with_another_recipe_is_refused(old: Path) -> None:
    add_tiny_architecture()
    recipe = from_json({**last(old / "run")["recipe"], "seed": 1})
    with pytest.raises(UserError, match="seed"):
        train(recipe, open_dataset(old / "labelled"), old / "run", device="cpu", resume=True)


def test_todays_card_of_a_model_that_was_converted_before(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card of the same model says the same, in the same bytes."""
    words = ("publish", old / "byol_r14", "--repo", "me/byol_r14", "--dry-run", old / "repo", "--no-int8")
    assert run(monkeypatch, *words) == 0
    for name in ("config.json", "model.safetensors", "heads.safetensors"):
        assert (old / "repo" / name).read_bytes() == (old / "byol_r14" / name).read_bytes(), name
    assert without_measurements((old / "repo" / "README.md").read_text()) == without_measurements(
        (OLD / "card.md").read_text()
    )


def without_measurements(card: str) -> list[str]:
    """The lines of a card; those that give a difference measured on this machine are left out."""
    return [line for line in card.splitlines() if "e-0" not in line]
