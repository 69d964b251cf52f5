"""A static Space: its files, its YAML, its page in a real browser, and its upload with the real hub client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browsers import CHROMIUM, PLAYWRIGHT, installed
from hub_server import HubServer

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.errors import EXIT_OK, EXIT_USER_ERROR
from zoo.hub import hf_upload
from zoo.publish import space
from zoo.publish.space import publish_space

ROOT = Path(__file__).parents[3]
MODEL = "simclr_r18_mini"
SPACE = "org/look-alike"


def command(*arguments: str | Path) -> int:
    """The exit code of ``zoo``, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
        return exit_code(app, "zoo", "")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files by the names of onnxruntime-web's; no browser reads them."""
    folder = tmp_path_factory.mktemp("dist")
    for name in space._RUNTIME_FILES:
        (folder / name).write_bytes(name.encode() * 100)
    return folder


@pytest.fixture(scope="module")
def built(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``zoo publish --space --dry-run`` writes; read-only."""
    out = tmp_path_factory.mktemp("built") / "space"
    assert command("publish", MODEL, "--space", SPACE, "--dry-run", out, "--web-runtime", runtime) == EXIT_OK
    return out


def front_matter(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_folder_holds_all_that_the_page_loads(built: Path) -> None:
    out = built
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "README.md", "index.html", "app.mjs", "style.css", "model.onnx", *(f"ort/{n}" for n in space._RUNTIME_FILES)
    }  # fmt: skip
    facts = front_matter((out / "README.md").read_text())
    assert {"sdk": "static", "app_file": "index.html", "license": "apache-2.0", "title": "look-alike"}.items() <= (
        facts.items()
    )
    assert len(facts["short_description"]) <= 60
    assert "node_modules" not in (out / "app.mjs").read_text()
    assert "simclr_r18_mini.tin64 (Apache-2.0)" in (out / "index.html").read_text()


def test_an_upload_makes_a_space_and_a_second_one_changes_nothing(hub: HubServer, runtime: Path, built: Path) -> None:
    done = publish_space(MODEL, SPACE, web_runtime=runtime)
    assert list(hub.repositories) == [f"spaces:{SPACE}"]
    assert done.where == f"{hub.url}/spaces/{SPACE}"
    live = hub.repositories[f"spaces:{SPACE}"].find("main")
    assert live is not None
    assert live.sha == done.commit
    assert {name: len(data) for name, data in live.files.items() if name in done.files} == done.files
    assert live.files["ort/ort.wasm.min.mjs"] == (runtime / "ort.wasm.min.mjs").read_bytes()
    again = hf_upload.upload(built, SPACE, message="again", owned=(), kind="space")
    assert again.commit == done.commit, "the same files"
    assert hub.count("POST .*/commit/") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --repo ORG/NAME (a model) or --space OWNER/NAME (a page), one of them"),
        (["--repo", "a/b", "--space", "a/b"], "one of them"),
        (["--space", "a/b", "--results", "x"], "are for --repo: leave them out with --space"),
        (["--repo", "a/b", "--web-runtime", "x"], "--web-runtime is for --space"),
        (["--space", "no name", "--web-runtime", "DIST"], "no name"),
        (["--space", "a/b", "--web-runtime", "EMPTY"], "has no ort.wasm.min.mjs: give the folder `dist`"),
        (["--space", "a/b", "--dry-run", "FULL", "--web-runtime", "DIST"], "holds something already"),
        (["--space", "a/b", "--dry-run", "NEW"], "install npm, or give its folder `dist` with --web-runtime DIR"),
    ],
)
def test_what_must_change_is_said_in_one_line(
    words: list[str],
    message: str,
    runtime: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"DIST": runtime, "EMPTY": tmp_path / "empty", "FULL": runtime, "NEW": tmp_path / "new"}
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))  # no npm
    assert command("publish", MODEL, *(places.get(word, word) for word in words)) == EXIT_USER_ERROR
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_npm_that_fails_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
        assert command("publish", MODEL, "--space", SPACE, "--dry-run", tmp_path / "new") == EXIT_USER_ERROR
    assert "npm cannot install onnxruntime-web (npm error code ENOTFOUND)" in capsys.readouterr().err


@pytest.fixture
def host() -> Iterator[Callable[[Path], str]]:
    """Return a function that serves a Space's folder, with the headers that its README asks for."""
    servers: list[ThreadingHTTPServer] = []

    def serve(folder: Path) -> str:
        headers = front_matter((folder / "README.md").read_text())["custom_headers"]

        class Host(SimpleHTTPRequestHandler):
            def end_headers(self) -> None:
                for name, value in headers.items():
                    self.send_header(name, value)
                super().end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Host, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_space_embeds_photographs_in_a_browser(built: Path, host: Callable[[Path], str], tmp_path: Path) -> None:
    dist = installed(ROOT / "examples" / "web" / "package.json") / "onnxruntime-web" / "dist"
    out = tmp_path / "space"
    shutil.copytree(built, out)
    for name in space._RUNTIME_FILES:  # the real ones
        shutil.copyfile(dist / name, out / "ort" / name)
    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "node_modules").symlink_to(installed(PLAYWRIGHT))
    shutil.copy(ROOT / "tests" / "examples" / "drive_web.mjs", driver)
    photos = [ROOT / "examples" / "photos" / name for name in ("cat_kitten.jpg", "coffee_cup.jpg", "rocket.jpg")]
    words = ["node", "drive_web.mjs", host(out), CHROMIUM, tmp_path / "shot.png", *photos]
    done = subprocess.run(words, cwd=driver, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["foreign"], found["errors"]) == ([], [])
    expected = zoo.load(MODEL, backend="torch", device="cpu")(photos)
    for photo, vector in zip(photos, expected, strict=True):
        difference = np.abs(np.array(found["vectors"][photo.name]) - vector).max()
        assert difference <= 0.05 * np.abs(vector).max(), photo.name  # browsers decode JPEG a little differently
    assert len(found["pairs"]) == 3
