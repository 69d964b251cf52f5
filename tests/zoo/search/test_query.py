from __future__ import annotations

import json
import re
import shutil
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction_driver import PixelMeans, run
from pictures import encode, fill, picture

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.errors import EXIT_OK, EXIT_SOME_FAILED, EXIT_USER_ERROR, UserError
from zoo.search.collection import Collection
from zoo.search.index import build
from zoo.search.query import open_model
from zoo.search.thumbnails import Pictures
from zoo.transforms.decode import UnreadableImage

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    """``zoo`` as typed; its exit code."""
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
    names = [item.name for item in collection.items(0, 24)]
    for query, answer in zip(queries, found["queries"], strict=True):
        cosines = vectors @ vectors[names.index(query.name)]
        assert [n["row"] for n in answer["neighbours"]] == np.argsort(-cosines)[:5].tolist()
        assert [n["path"] for n in answer["neighbours"]] == [names[n["row"]] for n in answer["neighbours"]]
        assert [n["cosine"] for n in answer["neighbours"]] == pytest.approx(np.sort(cosines)[::-1][:5], abs=1e-4)


def test_the_table_and_what_could_not_be_read(
    photos_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "bro[red]ken\x1b[31m.jpg"
    broken.write_bytes(b"no picture")
    assert command(monkeypatch, "search", photos_out, broken, PHOTOS / "rocket.jpg", "-k", 2) == EXIT_SOME_FAILED
    out, err = capsys.readouterr()
    assert re.search(r"^1\s+1\.0000\s+rocket\.jpg", out, re.MULTILINE)
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


def test_the_page_stands_alone_and_hostile_names_stay_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    hostile = "\"><script>alert(1)<\\script>&'.png"
    for n, name in enumerate((hostile, "b.png", "c.png")):
        (images / name).write_bytes(encode(picture(seed=n), "PNG"))
    zoo.extract(images, out, backend="torch", device="cpu")
    build(Collection(out))
    page = tmp_path / "page.html"
    options = ("--html", page, "--images", images, "--device", "cpu")
    assert command(monkeypatch, "search", out, images / hostile, images / "b.png", *options) == EXIT_OK
    found = _Page(page.read_text())
    tags = [tag for tag, _ in found.tags]
    assert "script" not in tags
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == 2 * (1 + 3)
    assert all((p["src"] or "").startswith("data:image/jpeg;base64,") for p in pictures)
    assert hostile in [p["alt"] for p in pictures]
    (policy,) = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not re.search(r"https?://", page.read_text())
    (images / "c.png").unlink()  # the page says so in its place
    assert command(monkeypatch, "search", out, images / "b.png", *options) == EXIT_OK
    assert "missing: no such file" in page.read_text()
    capsys.readouterr()


def test_another_model_is_refused(photos_out: Path, random_weights: Path) -> None:
    with pytest.raises(UserError, match="made with another model: weights_sha256"):
        open_model(Collection(photos_out), str(random_weights), device="cpu")


def test_a_model_of_a_file_is_asked_for_and_then_taken(
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


def test_pictures_are_of_the_collection_only(photos_out: Path, tmp_path: Path) -> None:
    collection = Collection(photos_out)
    names = [item.name for item in collection.items(0, 24)]
    images = tmp_path / "images"
    shutil.copytree(PHOTOS, images)
    outside = tmp_path / "outside.jpg"
    shutil.move(images / "rocket.jpg", outside)
    (images / "rocket.jpg").symlink_to(outside)
    (images / "astronaut.jpg").unlink()
    (images / "astronaut.jpg").symlink_to("other.jpg")
    (images / "other.jpg").write_bytes((PHOTOS / "astronaut.jpg").read_bytes())
    shutil.copy(PHOTOS / "rocket.jpg", images / "cat_kitten.jpg")
    pictures = Pictures(collection, str(images))
    for name, reason in (("rocket.jpg", "no-permission"), ("cat_kitten.jpg", "changed")):
        with pytest.raises(UnreadableImage) as caught:
            pictures.small(names.index(name))
        assert caught.value.reason == reason
    assert pictures.small(names.index("astronaut.jpg")).startswith(b"\xff\xd8")  # a link inside is fine
    with pytest.raises(IndexError):
        pictures.small(24)
    with pytest.raises(UserError, match="no folder"):
        Pictures(collection, str(tmp_path / "none"))


def test_paths_of_an_altered_table_lead_nowhere(tmp_path: Path) -> None:
    from made_collection import clusters, make

    (tmp_path / "images").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    paths = [b"../secret.jpg", str(tmp_path / "secret.jpg").encode(), b"a\0b.jpg", b"."]
    pictures = Pictures(make(tmp_path / "out", clusters(4, 4), paths=paths), str(tmp_path / "images"))
    for row in range(4):
        with pytest.raises(UnreadableImage):
            pictures.small(row)


def test_pictures_of_a_tar(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", 4)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(images, ".")
    run(tmp_path / "a.tar", tmp_path / "out", embedder=PixelMeans())
    collection = Collection(tmp_path / "out")
    pictures = Pictures(collection, str(tmp_path / "a.tar"))
    assert collection.item(0).name.startswith("a.tar/")
    for row in range(len(collection)):
        assert pictures.small(row).startswith(b"\xff\xd8")
    (tmp_path / "out" / ".zoo" / "plan.parquet").unlink()
    with pytest.raises(UserError, match="has no plan"):
        Pictures(collection, str(tmp_path / "a.tar"))
