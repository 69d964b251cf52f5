"""``zoo.extract`` has what ``zoo extract`` has, and the same defaults."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from extraction_driver import results
from pictures import fill

import zoo
from zoo.cli.embeddings import extract as command
from zoo.errors import UserError
from zoo.extraction.partition import Partition
from zoo.search.image_source import recorded_images

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "rocket.jpg"
OF_THE_COMMAND = {"images", "source", "out", "layers", "maps", "heads", "crops", "tiles", "shard"}
OF_PYTHON = {"images", "out", "outputs", "partition", "progress", "on_open"}


def test_the_command_has_the_keywords_of_the_function() -> None:
    words = inspect.signature(command).parameters
    keywords = inspect.signature(zoo.extract).parameters
    assert words.keys() - OF_THE_COMMAND == keywords.keys() - OF_PYTHON
    for name in words.keys() - OF_THE_COMMAND - {"model", "keep"}:  # None and () stand for the command's words
        assert words[name].default == keywords[name].default, name


def test_the_model_is_told_once_and_partitions_make_the_whole(tmp_path: Path, random_weights: Path) -> None:
    images = fill(tmp_path / "images", 6)
    options: dict[str, Any] = {"model": random_weights, "device": "cpu", "backend": "torch", "shard_size": 2}
    opened: list[int] = []
    whole = zoo.extract(images, tmp_path / "whole", on_open=lambda model: opened.append(model.dim), **options)
    assert (whole.ok, whole.shards, opened) == (6, 3, [512])
    for index in (1, 0):
        part = zoo.extract(images, tmp_path / "parts", partition=Partition(index, 2), **options)
    assert not part.missing
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


def test_an_engine_that_is_not_known_and_an_address_without_ray_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown engine 'slurm': choose here or ray"):
        zoo.extract(tmp_path, tmp_path / "out", engine="slurm")
    with pytest.raises(UserError, match="--ray-address needs --engine ray"):
        zoo.extract(tmp_path, tmp_path / "out", ray_address="auto")


@pytest.mark.parametrize("name", ["byol_r200x2", "byol_r200x2.deepmind_in1k", "simclr_r18_mini.tin32"])
def test_another_model_than_the_folder_has_is_refused_before_it_is_fetched(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(PHOTO, tmp_path / "images")
    zoo.extract(tmp_path / "images", tmp_path / "out", backend="torch", device="cpu")
    opened = list[object]()
    with pytest.raises(
        UserError, match=rf"out differs in model simclr_r18_mini\.tin64 there, {name}.* now: add --model"
    ):
        zoo.extract(tmp_path / "images", tmp_path / "out", model=name, on_open=opened.append)
    assert not opened
    for same in ("simclr_r18_mini", "simclr_r18_mini.tin64"):
        done = zoo.extract(tmp_path / "images", tmp_path / "out", model=same, backend="torch", device="cpu")
        assert done.ok == 1


def test_the_name_of_torchvision_suggests_its_weights() -> None:
    with pytest.raises(UserError, match=r"^unknown model 'ResNet50': did you mean supervised_r50\? `zoo list` shows"):
        zoo.load("ResNet50")


def test_numbers_of_numpy_are_numbers(tmp_path: Path, random_weights: Path) -> None:
    images = fill(tmp_path / "images", 3)
    options: dict[str, Any] = {"model": random_weights, "device": torch.device("cpu"), "backend": "torch"}
    numbers = {
        "batch_size": np.int32(2),
        "shard_size": np.int64(2),
        "max_pixels": np.int64(10**7),
        "workers": np.int8(1),
    }
    done = zoo.extract(str(images), tmp_path / "out", dedupe=True, near=np.float32(0.5), **numbers, **options)
    assert (done.ok, done.shards) == (3, 2)
    plain = {name: int(number) for name, number in numbers.items()}
    zoo.extract(images, tmp_path / "plain", dedupe=True, near=0.5, **plain, **options)
    assert results(tmp_path / "out") == results(tmp_path / "plain")


def test_the_home_folder_is_expanded(tmp_path: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "images", 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = zoo.extract("~/images", "~/out", model=random_weights, device="cpu", backend="torch")
    assert done.folder == tmp_path / "out"
    assert len(zoo.read("~/out")) == 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images is an empty list: give at least one path"),
        (["a.jpg", np.zeros((8, 8))], r"images holds a ndarray: zoo\.extract reads paths; .* zoo\.load\(\)\(images\)"),
        ([""], "images holds '', which is no path"),
        (["a\0b"], r"images holds 'a\\x00b', which is no path"),
        (["\ud800"], r"images holds '\\ud800', which is no path"),
        ({"a.jpg"}, "images is a set: give a list of paths, .*"),
        (pandas.DataFrame({"path": ["a.jpg"]}), "images is a DataFrame: .*"),
        (None, "images is None: give a path as text"),
        (b"images", "images is of type bytes: give a path as text"),
        (3, "images is of type int: give a path as text"),
    ],
)
def test_images_that_are_no_path_are_one_line(images: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{message}$") as caught:
        zoo.extract(images, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [list, tuple, iter, pandas.Series, np.array])
def test_a_list_of_paths_is_a_source(
    kind: Callable[[list[str]], Any], tmp_path: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "images", 4)
    paths = sorted((tmp_path / "images").rglob("*.*"))
    given = [paths[2], paths[0].relative_to(tmp_path), "images/none\nthere.jpg"]
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"model": random_weights, "device": "cpu", "backend": "torch"}
    out = tmp_path / "out"
    done = zoo.extract(kind([str(path) for path in given]), out, **options)
    assert (done.ok, done.failed) == (2, {"missing": 1})
    assert zoo.read(out).paths == [str(paths[2]), str(paths[0])]
    # The same list goes on, in any folder; another one is refused, or taken in.
    monkeypatch.chdir(tmp_path.parent)
    absolute = [tmp_path / path for path in given]
    assert zoo.extract(absolute, out, **options).reused == 3
    with pytest.raises(UserError, match="--update"):
        zoo.extract(absolute[:2], out, **options)
    updated = zoo.extract([*absolute[:2], paths[1]], out, update=True, **options)
    assert (updated.ok, updated.reused) == (3, 2)
    assert recorded_images(out) == str(out / ".zoo" / "images.txt")


def test_a_notebook_completes_the_public_names_and_models_are_found_by_a_pattern() -> None:
    assert set(zoo.__all__) <= set(dir(zoo))
    assert zoo.list_models("BYOL_r50*") == ["byol_r50", "byol_r50x2", "byol_r50x4"]
    assert zoo.list_models("byol_r50*", pretrained=True) == ["byol_r50"]
    assert zoo.list_models() == zoo.list_models("*")
    assert zoo.list_models("nothing") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 3}, "model 3: give the name or the path of a model"),
        ({"outputs": "layer3"}, r"outputs layer3: give zoo\.Outputs\(layers=\('layer3',\)\) or the like"),
        ({"batch_size": "16"}, "batch size 16: give a whole number above zero"),
        ({"shard_size": 1.5}, "shard size 1.5: give a whole number above zero"),
        ({"workers": "2"}, "workers 2: give a whole number above zero"),
        ({"keep": "label"}, "keep 'label': give a list of columns"),
    ],
)
def test_an_option_of_another_type_is_one_line(
    tmp_path: Path, random_weights: Path, options: dict[str, Any], message: str
) -> None:
    fill(tmp_path, 1)
    with pytest.raises(UserError, match=f"^{message}$"):
        zoo.extract(tmp_path, tmp_path / "out", **{"model": random_weights, **options})
    assert not (tmp_path / "out").exists()
