"""Lists as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import fill

from zoo.sources import open_source

CSV = "path,label\na.png,left\nb.png,x;y\n"


@pytest.mark.parametrize(
    "text",
    [
        CSV.replace(",", "\t"),
        CSV.replace("x;y", '"x;y"').replace(",", ";"),
        "\ufeff" + CSV.replace("x;y", '"x;y"').replace(",", ";").replace("\n", "\r\n"),
        CSV,
    ],
    ids=["tabs", "semicolons", "with a byte order mark and CRLF", "commas"],
)
def test_what_separates_the_values_is_seen_in_the_header(tmp_path: Path, text: str) -> None:
    images = fill(tmp_path / "images", 2)
    for path, name in zip(sorted(images.iterdir()), ("a.png", "b.png"), strict=True):
        path.rename(tmp_path / name)
    (tmp_path / "list.csv").write_bytes(text.encode())
    files = open_source(tmp_path / "list.csv", ["label"]).listing().files
    assert files["path"].to_pylist() == [b"a.png", b"b.png"]
    assert files["label"].to_pylist() == ["left", "x;y"]
