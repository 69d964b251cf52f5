"""Tables of images, and tables beside images, in Hugging Face's layouts and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import run
from small_sources import IMAGES, names, png, read_all, rows

from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.sources import open_source
from zoo.transforms.unreadable import UnreadableImage


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_beside_images_can_be_kept(tmp_path: Path, kind: str) -> None:
    for name in ("train/a.png", "train/b.png", "train/sub/c.png", "test/d.png", "e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(0))

    def write(folder: str, table: list[dict[str, Any]]) -> None:
        path = tmp_path / folder / f"metadata.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        elif kind == "csv":
            lines = [",".join(table[0]), *(",".join(map(str, row.values())) for row in table)]
            path.write_text("\n".join(lines) + "\n")
        else:
            pq.write_table(pa.Table.from_pylist(table), path)

    bee = {"file_name": "b.png", "label": 1, "text": "bee"}
    sea, none = bee | {"file_name": "sub\\c.png", "label": 2, "text": "sea"}, {"label": 3, "text": "none"}
    write("train", [bee, sea, {"file_name": "gone.png", **none}])
    write("test", [{"file_name": "d.png", "label": 4, "text": "dee"}])
    files = open_source(tmp_path, ["text", "folder", "label"]).listing().files
    assert files.select(["path", "label", "text", "folder"]).to_pylist() == [
        {"path": b"e.png", "label": None, "text": None, "folder": ""},
        {"path": b"test/d.png", "label": 4, "text": "dee", "folder": "test"},
        {"path": b"train/a.png", "label": None, "text": None, "folder": "train"},
        {"path": b"train/b.png", "label": 1, "text": "bee", "folder": "train"},
        {"path": b"train/gone.png", "label": 3, "text": "none", "folder": "train"},
        {"path": b"train/sub/c.png", "label": 2, "text": "sea", "folder": "train/sub"},
    ]
    result = run(tmp_path, tmp_path / "out", keep=["label"])
    assert (result.ok, result.failed) == (5, {"missing": 1})
    with pytest.raises(UserError, match=r"no column lable: its metadata have file_name, label, text"):
        open_source(tmp_path, ["lable"]).listing()
    assert len(open_source(tmp_path).listing().files) == 5, "without --keep they say nothing"


def test_metadata_that_name_other_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "in/b.npy", "secret.png"):
        (tmp_path / name).write_bytes(png(0) if name.endswith("png") else b"\x93NUMPY")
    paths = ["a.png", "b.npy", "../secret.png", str(tmp_path / "secret.png")]
    (tmp_path / "in" / "metadata.csv").write_text("file_name,n\n" + "".join(f"{p},{n}\n" for n, p in enumerate(paths)))
    run(tmp_path / "in", tmp_path / "out", keep=["n"])
    assert {row["n"]: row["status"] for row in rows(tmp_path / "out")} == {
        0: "ok", 1: "not-an-image", 2: "changed", 3: "changed",
    }  # fmt: skip


def test_metadata_as_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "metadata.csv").write_text("label,file_name\n007,a.png\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "007", "n": 1.5}\n\n')
    for name in ("metadata.csv", "metadata.jsonl"):
        files = open_source(tmp_path / name, ["label"]).listing().files
        assert files.select(["path", "label"]).to_pylist() == [{"path": b"a.png", "label": "007"}]
    (tmp_path / "other.csv").write_text("id,image\n1,a.png\n")
    with pytest.raises(UserError, match=r"no column path or file_name.* it has id, image"):
        open_source(tmp_path / "other.csv").listing()
    assert names(open_source(tmp_path / "other.csv", image_column="image")) == [b"a.png"]
    (tmp_path / "bad.jsonl").write_text('{"file_name": "a.png"}\n[1]\n')
    with pytest.raises(UserError, match="line 2 is no JSON object"):
        open_source(tmp_path / "bad.jsonl").listing()


PALETTE = pa.dictionary(pa.int32(), pa.binary())


@pytest.mark.parametrize(
    "type", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_images_in_any_type_of_bytes(tmp_path: Path, type: pa.DataType, nested: bool, kind: str) -> None:
    column = pa.array(IMAGES, pa.binary())
    column = column.dictionary_encode() if pa.types.is_dictionary(type) else column.cast(type)
    if nested:
        column = pa.StructArray.from_arrays([column, pa.array(["x"] * 4)], ["bytes", "path"])
    table, path = pa.table({"picture": column, "label": [0, 1, 2, 3]}), tmp_path / f"a.{kind}"
    if kind == "parquet":
        try:
            pq.write_table(table, path)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            pytest.skip(str(error))
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    source = open_source(path, ["label"])
    assert read_all(source) == IMAGES
    assert source.listing().files["label"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_with_a_path_and_no_bytes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "images").mkdir()
    for n, data in enumerate(IMAGES):
        (tmp_path / "images" / f"{n}.png").write_bytes(data)
    absolute = str(tmp_path / "images" / "1.png")
    paths = ["images/0.png", absolute, "x", "images/gone.png", None]
    mixed = [{"bytes": IMAGES[2] if path == "x" else None, "path": path} for path in paths]
    table = pa.table({"image": mixed, "file_name": [f"images/{n}.png" for n in range(4)] + [None], "n": range(5)})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    run(path, tmp_path / "out", keep=["n"])
    found = rows(tmp_path / "out")
    assert [(row["status"], row["n"]) for row in found] == [
        ("ok", 0),
        ("ok", 1),
        ("ok", 2),
        ("missing", 3),
        ("empty", 4),
    ]
    run(path, tmp_path / "named", image_column="file_name")
    assert [row["status"] for row in rows(tmp_path / "named")] == ["ok"] * 4 + ["empty"]
    assert rows(tmp_path / "named")[2]["embedding"] == found[2]["embedding"]
    assert json.loads((tmp_path / "named" / "_manifest.json").read_bytes())["image_column"] == "file_name"


def test_a_column_is_chosen_by_name_and_an_error_lists_those_there(tmp_path: Path) -> None:
    table = pa.table({"photo": IMAGES, "mask": IMAGES[::-1], "label": [0, 1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"--image-column; it has photo \(binary\), mask \(binary\), label \(int64\)"):
        open_source(tmp_path / "a.parquet").listing()
    assert read_all(open_source(tmp_path / "a.parquet", image_column="mask")) == IMAGES[::-1]
    for wrong in ("label", "gone", "photo.bytes"):
        with pytest.raises(UserError, match=f"no column {wrong} of images, bytes or paths; it has photo"):
            open_source(tmp_path / "a.parquet", image_column=wrong).listing()
    # What has no columns does not ignore the option.
    (tmp_path / "photo.jpg").write_bytes(IMAGES[0])
    for source in (tmp_path / "photo.jpg", tmp_path / "*.jpg", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=r"--image-column photo: .* is no table and no list$"):
            open_source(source, image_column="photo")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_dot_in_the_name_of_a_column_is_a_part_of_it(tmp_path: Path, kind: str) -> None:
    held = [png(0), png(1)]
    table = pa.table({"my.image": pa.array(held, pa.binary()), "meta.label": [5, 7], "meta": [{"id": 1}, {"id": 2}]})
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as file:
            file.write_table(table)
    source = open_source(path, ["meta.label", "meta.id"])
    assert source.listing().files.select(["meta.label", "meta.id"]).to_pylist() == [
        {"meta.label": 5, "meta.id": 1},
        {"meta.label": 7, "meta.id": 2},
    ]
    assert read_all(source) == held


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_that_is_written_to_while_it_is_read(tmp_path: Path, kind: str) -> None:
    def write(first: int) -> None:
        held = [f"image {first + n:010d}".encode() for n in range(1000)]
        table = pa.table({"image": pa.array(held, pa.binary())})
        with (tmp_path / f"t.{kind}").open("r+b" if first else "wb") as file:  # the same file
            if kind == "parquet":
                pq.write_table(table, file, compression="none", use_dictionary=False, row_group_size=100)
            else:
                with pa.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table, 100)

    write(0)
    source = open_source(tmp_path / f"t.{kind}")
    listed = source.listing().files.to_pylist()
    assert source.read(listed[0]) == b"image 0000000000"
    write(5000)
    with pytest.raises(UnreadableImage, match="changed"):
        source.read(listed[900])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.arrow", "metadata.csv", "metadata.parquet"])
def test_a_column_that_stands_twice(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    path, source = tmp_path / name, tmp_path if name.startswith("metadata") else tmp_path / name
    column = "image" if name.endswith(("t.parquet", "arrow")) else "file_name"
    values = pa.array([png(0)], pa.binary()) if column == "image" else pa.array(["a.png"])
    for twice in ([column, "label", "label"], [column, column, "label"]):
        columns = [values, values if twice[1] == column else pa.array([1]), pa.array([2])]
        table = pa.Table.from_arrays(columns, twice)
        if name.endswith("csv"):
            path.write_text(",".join(twice) + "\na.png,a.png,2\n")
        elif name.endswith("arrow"):
            with pa.ipc.new_stream(path, table.schema) as file:
                file.write_table(table)
        else:
            pq.write_table(table, path)
        with pytest.raises(UserError, match="has 2 columns") as caught:
            open_source(source, ["label"]).listing()
        assert "\n" not in str(caught.value)
        if name == "t.parquet":
            with pytest.raises(UserError, match="has 2 columns"):
                open_dataset(path)


def test_a_column_that_stands_twice_and_is_not_wanted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,x,x,label\na.png,1,2,3\n")
    assert open_source(tmp_path / "t.csv", ["label"]).listing().files["label"].to_pylist() == [3]
