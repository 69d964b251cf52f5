from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from extraction_driver import run
from pictures import fill

import zoo
from zoo.errors import UserError
from zoo.search.collection import Collection
from zoo.search.image_source import recorded_images
from zoo.search.index import build


def test_a_run_records_its_local_source_and_a_later_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, out = fill(tmp_path / "pictures \u202e <b>"), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    run("pictures \u202e <b>", out)
    assert recorded_images(out) == str(images)
    assert str(images) not in (out / "_manifest.json").read_text()
    moved = images.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"the images of {out} were in .*, which is gone: give --images, or --no-imag"):
        recorded_images(out)
    (moved / "new.png").write_bytes((next(moved.glob("*.*"))).read_bytes())
    run(moved, out, update=True)
    assert recorded_images(out) == str(moved)


def test_a_glob_is_found_by_its_folder(tmp_path: Path) -> None:
    images = fill(tmp_path / "images")
    run(f"{images}/*", tmp_path / "out")
    assert recorded_images(tmp_path / "out") == f"{images}/*"


@pytest.mark.parametrize(
    "log",
    [
        "",
        "no JSON\n",
        '{"event": "start", "images": 3}\n',  # of an earlier version
        '{"event": "start", "source": 7}\n',
        '{"event": "start", "source": "s3://KEY:SECRET@bucket/x"}\n',
        '{"event": "start", "source": "relative"}\n',
        '{"event": "end", "source": "/tmp"}\n',
        '{"event": "start", "source": "/tm',
        "[" * 100_000,
    ],
)
def test_another_log_names_no_source(tmp_path: Path, log: str) -> None:
    (tmp_path / "_run.log.jsonl").write_text(log)
    assert recorded_images(tmp_path) is None
    with (tmp_path / "_run.log.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"event": "start", "source": str(tmp_path)}) + "\n" + '{"event": "en')
    assert recorded_images(tmp_path) == str(tmp_path)


def test_serve_finds_the_images_and_refuses_when_they_are_gone(tmp_path: Path) -> None:
    images, out = fill(tmp_path / "images", 3), tmp_path / "out"
    zoo.extract(images, out, backend="torch", device="cpu")
    build(Collection(out))
    command = [sys.executable, "-m", "zoo", "serve", str(out), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert re.match("http://127", process.stdout.readline())
    finally:
        process.terminate()
        err = process.communicate(timeout=20)[1]
    assert f"pictures: {images}, by the run log of {out}; --no-images shows names only" in err
    images.rename(tmp_path / "moved")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"were in .*/images, which is gone: give --images, or --no-images", done.stderr)
    assert "Traceback" not in done.stderr
