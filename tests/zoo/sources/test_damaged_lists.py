"""Lists whose lines are damaged: each is a row of its own, and ends no run."""

from __future__ import annotations

from pathlib import Path

import pytest
from extraction_driver import run
from pictures import encode, picture

from zoo.errors import UserError


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.jsonl"])
def test_a_damaged_line_is_one_row(tmp_path: Path, name: str) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "a.png").write_bytes(encode(picture(), "PNG"))
    lines = {
        "list.txt": b"a.png\nhttp://[/b.png\nc\xff.png\n" + b"d/" * 3000 + b"e.png\n",
        "list.csv": b"path\na.png\nb\0.png\nhttp://[/b.png\nhttp://h:x/c.png\n" + b"d/" * 3000 + b"e.png\n",
        "list.jsonl": b'{"path": "a.png"}\n{"path": "b\\u0000.png"}\n{"path": "http://[/b.png"}\n{"path": "\\u0000"}\n',
    }
    (tmp_path / name).write_bytes(lines[name])
    found = run(tmp_path / name, tmp_path / "out")
    assert found.ok == 1
    assert sum(found.failed.values()) == lines[name].count(b"\n") - 1 - (name == "list.csv")


@pytest.mark.parametrize("head", [b"path\rlabel,0", b"path," + b"x" * 200_000])
def test_a_damaged_header_is_one_line(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(head + b"\na.png\n")
    with pytest.raises(UserError, match="its first line"):
        run(tmp_path / "list.csv", tmp_path / "out")
