"""What the head of a source tells is said before a model opens: no image, no column to keep."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_sources import png

import zoo
from zoo.errors import UserError
from zoo.sources import open_source
from zoo.sources.parts import EXTENSION, cut


def source(kind: str, folder: Path) -> str:
    """Write a source that can keep ``label`` but for a plain list and a glob."""
    (folder / "a.png").write_bytes(png(1))
    match kind:
        case "csv" | "tsv":
            mark = {"csv": ",", "tsv": "\t"}[kind]
            (folder / f"list.{kind}").write_text(f"path{mark}label\na.png{mark}1\n")
        case "txt":
            (folder / "list.txt").write_text("a.png\n")
        case "parquet":
            pq.write_table(pa.table({"image": [png(1)], "label": [1]}), folder / "list.parquet")
        case "parts":
            images = source("csv", folder)
            cut(open_source(images, ["label"]), images, 1, folder / "parts")
            return str(folder / "parts" / f"part-00000{EXTENSION}")
        case "glob":
            return str(folder / "*.png")
    return str(folder / f"list.{kind}")


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "parquet", "parts", "glob"])
def test_it_is_said_before_a_model_opens(kind: str, tmp_path: Path) -> None:
    images, opened = source(kind, tmp_path), list[object]()
    with pytest.raises(UserError, match="has no column lable"):
        zoo.extract(images, tmp_path / "out", keep=["lable"], on_open=opened.append)
    assert not opened
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("texts", r"no image in .*texts \(1 other files\): 1 \.md"),
        ("texts/*", r"no image in .*texts/\* \(1 other files\): 1 \.md"),
        ("texts/*.jpg", r"no image in .*texts/\*\.jpg \(0 other files\)"),
        ("empty", r"no image in .*empty \(0 other files\)"),
    ],
)
def test_no_image_is_said_before_a_model_opens(images: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("x")
    opened = list[object]()
    with pytest.raises(UserError, match=message):
        zoo.extract(tmp_path / images, tmp_path / "out", on_open=opened.append)
    assert not opened
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_read_is_named(without_privileges: Path) -> None:
    (without_privileges / "photos").mkdir(mode=0)
    with pytest.raises(UserError, match=r"cannot list .*/photos \(Permission denied\): allow reading it"):
        open_source(without_privileges / "photos").require_columns()


def test_a_result_is_no_source_of_images(tmp_path: Path) -> None:
    """Who confuses IMAGES and OUT got a row of an error for each image."""
    (tmp_path / "a.png").write_bytes(png(1))
    table = {"path": ["a.png"], "path_bytes": pa.array([None], pa.binary()), "status": ["ok"], "embedding": [[1.0]]}
    pq.write_table(pa.table(table), tmp_path / "embeddings-00000.parquet")
    result = tmp_path / "embeddings-00000.parquet"
    with pytest.raises(UserError, match=r"is a result of `zoo extract` and holds no images: give the images"):
        open_source(result).listing()
    # its paths, as a user asks for them, or images in it
    assert len(open_source(result, image_column="path").listing().files) == 1
    pq.write_table(pa.table(table | {"image": [png(1)]}), result)
    assert len(open_source(result).listing().files) == 1


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "parts"])
def test_a_column_that_is_there_passes(kind: str, tmp_path: Path) -> None:
    opened = open_source(source(kind, tmp_path), ["label"])
    opened.require_columns()
    assert opened.listing().files["label"].to_pylist() == [1]
