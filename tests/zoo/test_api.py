"""``zoo.extract`` has what ``zoo extract`` has, and the same defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from extraction_driver import results
from pictures import fill

import zoo
from zoo.cli.embeddings import extract as command
from zoo.errors import UserError
from zoo.extraction.partition import Partition

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
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
        zoo.extract(tmp_path, tmp_path / "out", model=random_weights, **options)
    assert not (tmp_path / "out").exists()
