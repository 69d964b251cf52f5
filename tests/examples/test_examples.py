"""Every example runs as its README says and gives the embeddings of `zoo.load`."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from browsers import CHROMIUM, installed
from hostile_pictures import pictures
from PIL import Image

import zoo
from zoo.export.export import export_onnx

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PHOTOS = EXAMPLES / "photos"
AGREE = 2e-3  # the same to the embeddings of `zoo extract`, where readers decode and resize themselves
SAME = 1e-3  # relative error to Python's embeddings of the same pixels


@pytest.fixture(scope="module")
def model(mini_core: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model.onnx"
    return export_onnx(zoo.load(device="cpu"), out, core=mini_core).path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photographs of several sizes; PNG, so that every decoder gives the same pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for n, name in enumerate(("cat_chelsea", "cat_kitten", "rocket", "flower_bee", "horses_meadow")):
        Image.open(PHOTOS / f"{name}.jpg").convert("RGB").resize((90 + 7 * n, 101)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def reference(model: Path, photos: Path) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model)
    return {p.name: session.run(None, {"pixels": np.asarray(Image.open(p))[None]})[0][0] for p in photos.iterdir()}


def assert_same(found: dict[str, Any], reference: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(reference)
    for name, vector in reference.items():
        assert np.abs(np.asarray(found[name], np.float32) - vector).max() <= SAME * np.abs(vector).max()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name, data in pictures().items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path, hostile: Path) -> dict[str, np.ndarray]:
    """What `zoo extract` gives: the zoo decodes, torch embeds."""
    names = sorted(path.name for path in hostile.iterdir())
    return dict(zip(names, zoo.load(device="cpu", backend="torch")([hostile / name for name in names]), strict=True))


def assert_agrees(found: dict[str, Any], expected: dict[str, np.ndarray], **tolerances: float) -> None:
    """Compare readers on pictures that they decode differently; tolerances are by the first word of a name."""
    wrong = {}
    for name, vector in expected.items():
        difference = np.abs(np.asarray(found[name], np.float32) - vector).max() / np.abs(vector).max()
        if difference > tolerances.get(name.split()[0], AGREE):
            wrong[name] = float(difference)
    assert not wrong


def test_hostile_pictures_differ_where_a_reader_does_not_see_what_they_say(expected: dict[str, np.ndarray]) -> None:
    for name in ("alpha.png", "cmyk black.jpg", "orientation6.webp", "palette alpha.png"):
        assert np.abs(expected[name] - expected["plain.png"]).max() > 0.02 * np.abs(expected["plain.png"]).max()
    for name in ("profile.png", "profile.webp", "gamma.png", "cicp.png", "animation.png"):
        assert np.array_equal(expected[name], expected["plain.png"])


def test_onnx_runtime_agrees_on_hostile_pictures(model: Path, hostile: Path, expected: dict[str, np.ndarray]) -> None:
    found = dict(zip(expected, zoo.load(model)([hostile / name for name in expected]), strict=True))
    assert_agrees(found, expected)


def test_python_agrees_on_hostile_pictures(
    model: Path, hostile: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    command = [sys.executable, EXAMPLES / "python_onnx" / "embed.py", model, hostile, "--out", tmp_path / "e.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = csv.reader((tmp_path / "e.csv").read_text().splitlines())
    assert_agrees({name: np.array(vector, np.float32) for name, *vector in rows}, expected)


@pytest.mark.slow  # npm downloads half a gigabyte, once
def test_node_agrees_on_hostile_pictures(
    model: Path, hostile: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(installed(EXAMPLES / "node" / "package.json"))
    shutil.copy(EXAMPLES / "node" / "embed.mjs", tmp_path)
    command = ["node", "embed.mjs", str(model), str(hostile), "embeddings.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_agrees(json.loads((tmp_path / "embeddings.json").read_text()), expected)


@pytest.mark.slow  # as above
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_web_page_agrees_on_hostile_pictures(
    site: str, hostile: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "node_modules").symlink_to(installed(Path(__file__).parent / "package.json"))
    shutil.copy(Path(__file__).parent / "drive_web.mjs", driver)
    command = ["node", "drive_web.mjs", site, CHROMIUM, str(tmp_path / "shot.png"), *sorted(hostile.iterdir())]
    done = subprocess.run(command, cwd=driver, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    # Chromium cuts the fraction off where it converts CMYK (Blink's JPEGImageDecoder: iC * iK / 255), Pillow rounds.
    assert_agrees(json.loads(done.stdout)["vectors"], expected, cmyk=5e-3)


def test_python_without_torch(model: Path, photos: Path, reference: dict[str, np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "embeddings.csv"
    script = EXAMPLES / "python_onnx" / "embed.py"
    code = f"""
import runpy, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "zoo", "onnx", "pyarrow"):
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
sys.argv = ["embed.py", {str(model)!r}, {str(folder)!r}, "--out", {str(out)!r}]
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr  # one of them is broken
    assert "broken.jpg" in done.stderr
    assert "simclr_r18_mini.tin64, licence Apache-2.0" in done.stdout
    lines = csv.reader(out.read_text().splitlines())
    rows = {name: np.array(vector, np.float32) for name, *vector in lines}
    assert_same(rows, reference)
    assert re.search(r"^cat_kitten\.png: \w+\.png \(-?\d\.\d\d\)$", done.stdout, re.MULTILINE)


@pytest.mark.slow  # npm downloads half a gigabyte, once
def test_node(model: Path, photos: Path, reference: dict[str, np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(installed(EXAMPLES / "node" / "package.json"))
    shutil.copy(EXAMPLES / "node" / "embed.mjs", tmp_path)
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "broken.jpg").write_bytes(b"no picture")
    command = ["node", "embed.mjs", str(model), str(folder), "embeddings.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "broken.jpg" in done.stderr
    assert_same(json.loads((tmp_path / "embeddings.json").read_text()), reference)


@pytest.fixture
def site(model: Path, tmp_path: Path) -> Iterator[str]:
    """URL of the page on a static host."""
    folder = tmp_path / "site"
    shutil.copytree(EXAMPLES / "web", folder, ignore=shutil.ignore_patterns("node_modules", "*.onnx"))
    (folder / "node_modules").symlink_to(installed(EXAMPLES / "web" / "package.json"))
    shutil.copy(model, folder / "model.onnx")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.slow  # as above
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_web_page_in_a_browser_without_internet(
    site: str, photos: Path, reference: dict[str, np.ndarray], tmp_path: Path
) -> None:
    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "node_modules").symlink_to(installed(Path(__file__).parent / "package.json"))
    shutil.copy(Path(__file__).parent / "drive_web.mjs", driver)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    chosen = [*sorted(photos.iterdir()), tmp_path / "broken.jpg"]
    shot = os.environ.get("WEB_SCREENSHOT", str(tmp_path / "shot.png"))
    command = ["node", "drive_web.mjs", site, CHROMIUM, shot, *chosen]
    done = subprocess.run(command, cwd=driver, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["foreign"] == []
    assert found["errors"] == []
    assert_same(found["vectors"], reference)
    assert "5 photographs" in found["status"]
    assert "broken.jpg" in found["status"]
    cosines = [pair["cosine"] for pair in found["pairs"]]
    assert len(cosines) == 10
    assert cosines == sorted(cosines, reverse=True)
    assert all(pair["loaded"] for pair in found["pairs"])
    vectors = np.stack(list(reference.values())) - np.mean(list(reference.values()), axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    one, other = (list(reference).index(name) for name in found["pairs"][0]["names"])
    off_diagonal = vectors @ vectors.T - 3 * np.eye(len(vectors))
    assert cosines[0] == pytest.approx(float(off_diagonal.max()), abs=0.006)
    assert off_diagonal[one, other] == pytest.approx(float(off_diagonal.max()), abs=1e-3)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 photographs of five classes: different square crops of five photographs."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for kind in ("cat_chelsea", "rocket", "flower_dahlia", "castle_schwerin", "coffee_cup"):
        with Image.open(PHOTOS / f"{kind}.jpg") as image:
            photo = image.convert("RGB")
            photo.thumbnail((200, 200))
        for n in range(24):
            left, top = (int(rng.integers(0, length - 80)) for length in photo.size)
            photo.crop((left, top, left + 80, top + 80)).save(folder / f"{kind}_{n:02d}.png")
    (folder / "a & <b>.png").write_bytes((folder / "rocket_00.png").read_bytes())
    return folder


def classify_command(embeddings: Path, images: Path, labels: Path, out: Path) -> list[str | Path]:
    script = EXAMPLES / "label_and_classify" / "classify.py"
    return [script, "--embeddings", embeddings, "--images", images, "--labels", labels, "--out", out]


def test_fifty_labels_classify_the_rest(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.extract(crops, tmp_path / "embeddings", backend="torch", device="cpu")
    names = sorted(path.name for path in crops.iterdir() if "&" not in path.name)
    kind = {name: name[:-7] for name in names}
    labelled = names[::12] + names[1::12] + names[2::12] + names[5::12] + names[8::12]
    assert len(labelled) == 50
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((name, kind[name]) for name in labelled)])
    command = classify_command(tmp_path / "embeddings", crops, tmp_path / "labels.csv", tmp_path / "result")
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trained on 50 photographs" in done.stdout
    rows = list(csv.DictReader((tmp_path / "result" / "predictions.csv").read_text().splitlines()))
    assert sorted(row["path"] for row in rows) == sorted({*names, "a & <b>.png"} - set(labelled))
    right = [kind[row["path"]] == row["label"] for row in rows if row["path"] in kind]
    assert np.mean(right) > 0.6  # 0.2 is chance
    page = (tmp_path / "result" / "uncertain.html").read_text()
    assert page.count("<figure>") == 48
    assert "<b>.png" not in page
    assert "http" not in page

    command = classify_command(tmp_path / "embeddings", crops, tmp_path / "labels.csv", tmp_path / "other")
    monkeypatch.setattr("sys.argv", [str(word) for word in command])
    a, b, c = names[:3]
    for rows_of_labels, message in (
        ("none.png,x", "not among the embeddings"),
        (f"{a},x\n{b},x", "give two labels or more"),
        (f"{a},x\n{b},x\n{c},y", "each label needs two photographs or more; 'y' has one"),
    ):
        (tmp_path / "labels.csv").write_text(f"path,label\n{rows_of_labels}\n")
        with pytest.raises(SystemExit, match=message):  # in this process: it imports scikit-learn once
            runpy.run_path(str(command[0]), run_name="__main__")
    assert not (tmp_path / "other").exists()
