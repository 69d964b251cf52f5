"""Lists and tables whose text is not what it seems: UTF-16, halves of surrogate pairs, quotation marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import encode, picture
from small_sources import names, png, tar

from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.sources import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode(picture(), "PNG"))
    return tmp_path


def _refused(path: Path, match: str, keep: tuple[str, ...] = ()) -> None:
    with pytest.raises(UserError, match=match) as caught:
        open_source(path, keep).listing()
    assert "\n" not in str(caught.value)


TEXTS = {
    "list.txt": "a.png\nb.png\n",
    "list.csv": "path,label\na.png,1\n",
    "list.tsv": "path\tlabel\r\na.png\t1\r\n",
    "list.jsonl": '{"path": "a.png"}\n',
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named(folder: Path, name: str, encoding: str) -> None:
    (folder / name).write_bytes(TEXTS[name].encode(encoding))
    _refused(folder / name, "UTF-16")
    (folder / name).write_bytes(b"\xfe\xff" + TEXTS[name].encode("utf-16-be"))
    _refused(folder / name, "UTF-16")


def test_names_between_zero_bytes_may_be_short_or_no_text(folder: Path) -> None:
    for listed in ([b"a", b"b.png"], [b"\xff\xfe.png", b"b.png"], [b"a", b"b"], [b"a", b"b", b"c", b"d", b"e"]):
        (folder / "list.txt").write_bytes(b"\0".join(listed) + b"\0")
        if listed[0].startswith(b"\xff\xfe"):
            listed = [b"\xff.png"]  # with the mark of UTF-16 it is taken for that
            (folder / "list.txt").write_bytes(listed[0] + b"\0")
        assert names(open_source(folder / "list.txt")) == listed


@pytest.mark.parametrize(
    "row",
    [
        {"path": "\ud800.png", "label": 1},
        {"path": "x\udcff.png", "label": 1},
        {"path": "a.png", "label": "\udfff"},
        {"path": "a.png", "label": ["\ud800"]},
        {"path": "a.png", "label": 1, "\ud800": 2},
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(folder: Path, row: dict[str, object]) -> None:
    (folder / "list.jsonl").write_text('{"path": "b.png", "label": 0}\n' + json.dumps(row) + "\n")
    _refused(folder / "list.jsonl", "line 2 is no JSON object", ("label",))
    label = {key: value for key, value in row.items() if key != "path"}
    path = tar(folder / "a.tar", [("a.png", png(0)), ("a.json", json.dumps(label).encode())])
    if label != {"label": 1}:
        _refused(path, "no readable JSON", ("label",))
    if isinstance(label["label"], str):
        with pytest.raises(UserError, match="not readable as a label"):
            open_dataset(path)


def test_a_saved_data_set_that_names_half_of_a_surrogate_pair(folder: Path) -> None:
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "\ud800"}]}))
    with pytest.raises(UserError, match="outside its folder"):
        open_source(folder)


SWALLOWED = {
    "two that pair": 'path\tcaption\na.png\t"hello\nb.png\tfoo\nc.png\tworld" bar\n',
    "one": 'path\tcaption\na.png\t"hello\nb.png\tfoo\nc.png\tworld\n',
    "one in the last line": 'path\tcaption\na.png\tfoo\nb.png\t"hello',
    "path behind it": 'caption\tpath\n"hello\ta.png\nfoo\tb.png\nworld"\tc.png\n',
    "quoted paths": 'path,caption\n"a.png","x\n"b.png","y"\n"c.png","z"\n',
    "behind pairs": 'path,caption\na.png,"""x"" y\nb.png,"z"\n',
    "Windows": 'path,caption\r\na.png,"hello\r\nb.png,foo\r\nc.png,world"\r\n',
}


@pytest.mark.parametrize("name", SWALLOWED)
@pytest.mark.parametrize("keep", [(), ("caption",)])
def test_a_quotation_mark_loses_no_rows_without_a_word(folder: Path, name: str, keep: tuple[str, ...]) -> None:
    path = folder / ("list.tsv" if "\t" in SWALLOWED[name] else "list.csv")
    path.write_bytes(SWALLOWED[name].encode())
    _refused(path, "a quotation mark in line [23]|no readable table", keep)


WHOLE = {
    "lines": 'path,caption\na.png,"one\ntwo, three\nfour"\nb.png,x\n',
    "inches": 'path,caption\na.png,a 5" disk\nb.png,"a 5"" disk"\n',
    "empty": 'path,caption\na.png,""\nb.png,""""\n',
    "Windows": 'path,caption\r\na.png,"one\r\ntwo"\r\nb.png,"x, y"\r\n',
    "behind": 'path,caption\na.png,"one" two\nb.png,x',
}


@pytest.mark.parametrize("name", WHOLE)
def test_quotation_marks_as_they_should_be(folder: Path, name: str) -> None:
    (folder / "list.csv").write_bytes(WHOLE[name].encode())
    assert names(open_source(folder / "list.csv", ["caption"])) == [b"a.png", b"b.png"]
