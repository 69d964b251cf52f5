from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encode, picture

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.errors import EXIT_OK, EXIT_SOME_FAILED, EXIT_USER_ERROR, UserError
from zoo.search.collection import Collection
from zoo.search.index import build
from zoo.search.query import open_model

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    """Run ``zoo`` with these arguments; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
    return exit_code(app, "zoo", "go on")


def test_json_gives_the_neighbours_that_numpy_finds(
    photos_out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = [PHOTOS / "cat_kitten.jpg", PHOTOS / "rocket.jpg"]
    assert command(monkeypatch, "search", photos_out, *queries, "-k", 5, "--json", "--device", "cpu") == EXIT_OK
    found = json.loads(capsys.readouterr().out)
    collection = Collection(photos_out)
    vectors = np.concatenate([v for _, v in collection.vectors()]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [item.name for item in collection.items(0, 24)]
    assert found["centred"] is True
    for query, answer in zip(queries, found["queries"], strict=True):
        cosines = vectors @ vectors[names.index(query.name)]
        assert [n["row"] for n in answer["neighbours"]] == np.argsort(-cosines)[:5].tolist()
        assert [n["path"] for n in answer["neighbours"]] == [names[n["row"]] for n in answer["neighbours"]]
        assert [n["cosine"] for n in answer["neighbours"]] == pytest.approx(np.sort(cosines)[::-1][:5], abs=1e-4)


def test_table_and_unreadable_queries(
    photos_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "bro[red]ken\x1b[31m.jpg"
    broken.write_bytes(b"no picture")
    assert command(monkeypatch, "search", photos_out, broken, PHOTOS / "rocket.jpg", "-k", 2) == EXIT_SOME_FAILED
    out, err = capsys.readouterr()
    assert re.search(r"^\s*1\s+1\.0000\s+rocket\.jpg", out, re.MULTILINE)
    assert "\x1b" not in err
    assert err.count("\n") == 1
    assert "bro[red]ken\\x1b[31m.jpg cannot be read: not-an-image" in err
    assert command(monkeypatch, "search", photos_out, tmp_path / "gone.jpg") == EXIT_USER_ERROR
    assert "cannot be read: missing" in capsys.readouterr().err


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_html_report_is_self_contained_and_escapes_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    hostile = "\"><script>alert(1)<\\script>&'.png"
    for n, name in enumerate((hostile, "b.png", "c.png")):
        (images / name).write_bytes(encode(picture(seed=n), "PNG"))
    zoo.extract(images, out, backend="torch", device="cpu")
    build(Collection(out))
    page = tmp_path / "new" / "page.html"  # its folder is made
    options = ("--html", page, "--images", images, "--device", "cpu")
    assert command(monkeypatch, "search", out, images / hostile, images / "b.png", *options) == EXIT_OK
    parsed = _Page(page.read_text())
    tags = [tag for tag, _ in parsed.tags]
    assert "script" not in tags
    pictures = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(pictures) == 2 * (1 + 3)
    assert all((p["src"] or "").startswith("data:image/jpeg;base64,") for p in pictures)
    assert hostile in [p["alt"] for p in pictures]
    (policy,) = [a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not re.search(r"https?://", page.read_text())
    (images / "c.png").unlink()  # a message takes the thumbnail's place
    assert command(monkeypatch, "search", out, images / "b.png", *options) == EXIT_OK
    assert "missing: no such file" in page.read_text()
    capsys.readouterr()


def test_a_caption_needs_a_page_and_a_kept_column(
    photos_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "search", photos_out, "a.jpg", "--caption", "label") == EXIT_USER_ERROR
    assert "--caption is for the page of --html" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert command(monkeypatch, "search", photos_out, "a.jpg", "--caption", "x", "--html", page) == EXIT_USER_ERROR
    assert "carries no column x that can be a caption, it has: none" in capsys.readouterr().err
    assert not page.exists()


def test_another_model_is_refused(photos_out: Path, random_weights: Path) -> None:
    with pytest.raises(UserError, match="made with another model: weights_sha256"):
        open_model(Collection(photos_out), str(random_weights), device="cpu")


def test_a_collection_made_with_a_file_needs_the_option_model(
    tmp_path: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "a.png").write_bytes(encode(picture(), "PNG"))
    zoo.extract(images, out, model=random_weights, backend="torch", device="cpu")
    assert command(monkeypatch, "index", out) == EXIT_OK
    assert "1 embeddings of 512 numbers, exact; searched exactly (recall 1)" in capsys.readouterr().out
    assert command(monkeypatch, "search", out, images / "a.png") == EXIT_USER_ERROR
    err = capsys.readouterr().err
    assert "random_r18" in err
    assert "--model PATH" in err
    assert err.count("\n") == 1
    assert command(monkeypatch, "search", out, images / "a.png", "--model", random_weights) == EXIT_OK
    assert "1.0000  a.png" in capsys.readouterr().out
