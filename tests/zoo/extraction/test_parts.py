"""A source that ``zoo plan`` cut into parts: each part is extracted alone, and all are read as one result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction_driver import finish, results, run, start
from pictures import encode, fill, picture

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.embeddings.merge import merge
from zoo.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from zoo.sources import absolute, open_source
from zoo.sources.parts import PARTS, Cut, cut, is_empty_part, read_cut

ROOT = Path(__file__).parents[3]
_KILLED = """
import os, signal, sys
from pathlib import Path
from zoo.sources import open_source
from zoo.sources.parts import cut
from zoo.system import atomic_files
write, left = atomic_files.atomic_write_bytes, int(sys.argv[3])
def dying(path, data):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(path, data)
atomic_files.atomic_write_bytes = dying
cut(open_source(sys.argv[1]), sys.argv[1], int(sys.argv[4]), Path(sys.argv[2]))
"""


def plan(images: Path | str, out: Path, parts: int, keep: tuple[str, ...] = ()) -> Cut:
    return cut(open_source(images, keep), absolute(images), parts, out)[0]


def command(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["zoo", *map(str, words)])
    return exit_code(app, "zoo", "")


def extract_all(out: Path, **options: Any) -> None:
    for part in read_cut(out).parts:
        if part.rows:
            run(out / f"{part.name}.zooplan", out / part.name, **options)


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_all_parts_together_are_the_extraction_of_the_whole(tmp_path: Path, parts: int) -> None:
    images = fill(tmp_path / "images", 20)
    run(images, tmp_path / "whole", shard_size=5)
    whole = zoo.read(tmp_path / "whole", all_rows=True)
    made = plan(images, tmp_path / "out", parts)
    assert sum(part.rows for part in made.parts) == len(whole)
    assert max(part.rows for part in made.parts) - min(part.rows for part in made.parts) <= 1
    extract_all(tmp_path / "out", shard_size=5)
    joined = zoo.read(tmp_path / "out", all_rows=True)
    assert joined.paths == whole.paths
    assert joined["sha256"].tolist() == whole["sha256"].tolist()
    assert joined.rows.tolist() == whole.rows.tolist()
    np.testing.assert_allclose(joined.vectors, whole.vectors, rtol=1e-5, atol=1e-6)
    assert joined.manifest["images"] == len(whole)
    # one file of all parts, and of the whole
    merge(tmp_path / "out", tmp_path / "joined.npy")
    merge(tmp_path / "whole", tmp_path / "whole.npy")
    np.testing.assert_allclose(np.load(tmp_path / "joined.npy"), np.load(tmp_path / "whole.npy"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["tar", "list", "glob"])
def test_other_sources_and_kept_columns(tmp_path: Path, kind: str) -> None:
    import tarfile

    images = fill(tmp_path / "images", 6)
    keep: tuple[str, ...] = ()
    if kind == "tar":
        source, keep = tmp_path / "a.tar", ("key",)
        with tarfile.open(source, "w") as tar:
            for path in sorted(images.rglob("*.png"))[:4]:
                tar.add(path, path.name)
    elif kind == "list":
        source, keep = tmp_path / "list.csv", ("label",)
        names = sorted(str(path) for path in images.rglob("*.png"))[:5]
        source.write_text("path,label\n" + "".join(f"{name},{number}\n" for number, name in enumerate(names)))
    else:
        source = tmp_path / "images" / "**" / "*.png"
    run(source, tmp_path / "whole", keep=keep)
    plan(str(source), tmp_path / "out", 2, keep)
    extract_all(tmp_path / "out", keep=keep)
    whole, joined = zoo.read(tmp_path / "whole", all_rows=True), zoo.read(tmp_path / "out", all_rows=True)
    assert joined.paths == whole.paths
    for name in keep:
        assert joined[name].tolist() == whole[name].tolist()
    with pytest.raises(UserError, match=r"has no column wrong: .*give --keep to `zoo plan`"):
        run(tmp_path / "out" / "part-00000.zooplan", tmp_path / "other", keep=("wrong",))


def test_more_parts_than_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in "ab":
        (images / f"{name}.png").write_bytes(encode(picture(seed=ord(name)), "PNG"))
    assert command("plan", images, "--out", out, "--parts", 5, monkeypatch=monkeypatch) == EXIT_OK
    assert "2 images in 5 parts of 0 to 1, 3 of them empty" in capsys.readouterr().out
    empty = [part.name for part in read_cut(out).parts if not part.rows]
    assert len(empty) == 3
    # A job array has a job for an empty part, too: it ends well and makes nothing.
    for name in empty:
        assert is_empty_part(str(out / f"{name}.zooplan"))
        part = out / f"{name}.zooplan"
        assert command("extract", part, "--out", out / name, monkeypatch=monkeypatch) == EXIT_OK
        assert "no image: nothing to do" in capsys.readouterr().out
        assert not (out / name).exists()
        with pytest.raises(UserError, match="has no image: leave it out"):
            run(part, tmp_path / "python")
    extract_all(out)
    assert zoo.read(out).paths == ["a.png", "b.png"]


@pytest.mark.parametrize("written", [0, 2])
def test_a_killed_plan_is_run_again(tmp_path: Path, written: int) -> None:
    images = fill(tmp_path / "images", 20)
    plan(images, tmp_path / "undisturbed", 4)
    out = tmp_path / "out"
    # Killed with more parts than in the end: what is left of them goes.
    for parts in (9, 4):
        words = [sys.executable, "-c", _KILLED, absolute(images), str(out), str(written), str(parts)]
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        assert not (out / PARTS).exists()
    plan(images, out, 4)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "undisturbed").iterdir()
    }
    # A finished one is left as it is, and a part that was lost is made again.
    assert plan(images, out, 4).written == 0
    (out / "part-00002.zooplan").unlink()
    assert plan(images, out, 4).written == 1


def test_a_killed_part_goes_on(tmp_path: Path) -> None:
    images, out = fill(tmp_path / "images", 20), tmp_path / "out"
    plan(images, out, 2)
    part = out / "part-00001.zooplan"
    run(part, tmp_path / "undisturbed", shard_size=3)
    for kill in (3, 6):
        process = start(part, out / "part-00001", kill=kill, shard_size=3)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert finish(part, out / "part-00001", shard_size=3) in (EXIT_OK, 3)
    assert results(out / "part-00001") == results(tmp_path / "undisturbed")


def test_what_is_missing_or_differs_is_one_line(tmp_path: Path) -> None:
    images, out = fill(tmp_path / "images", 12), tmp_path / "out"
    plan(images, out, 3)
    run(out / "part-00000.zooplan", out / "part-00000")
    with pytest.raises(UserError, match=r"2 of 3 parts .* not finished: run `zoo extract .*part-00001.zooplan --out"):
        zoo.read(out)
    with pytest.raises(UserError, match="holds 3 parts of"):
        plan(images, out, 4)
    run(out / "part-00001.zooplan", out / "part-00001")
    run(out / "part-00002.zooplan", out / "part-00002", dtype="float16")
    with pytest.raises(UserError, match=r"part-00000 and part-00002 were made in different ways .dtype"):
        zoo.read(out)
    # the result of another source in the place of a part
    os.rename(out / "part-00002", tmp_path / "aside")
    run(images, out / "part-00002")
    with pytest.raises(UserError, match="extract the part itself"):
        merge(out, tmp_path / "all.parquet")
    (images / "new.png").write_bytes(encode(picture(), "PNG"))
    with pytest.raises(UserError, match="the images changed since"):
        plan(images, out, 3)


def test_a_file_that_changed_since_the_plan_fails_alone(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in "abc":
        (images / f"{name}.png").write_bytes(encode(picture(seed=ord(name)), "PNG"))
    plan(images, out, 1)
    (images / "b.png").write_bytes(encode(picture(width=99), "PNG"))
    done = run(out / "part-00000.zooplan", out / "part-00000")
    assert (done.ok, done.failed) == (2, {"changed": 1})


@pytest.mark.parametrize("damage", ["cut", "other", "json", "text"])
def test_a_damaged_part_is_one_line(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    out = tmp_path / "out"
    plan(fill(tmp_path / "images", 6), out, 2)
    part, parts = out / "part-00001.zooplan", out / PARTS
    data = part.read_bytes()
    if damage == "cut":
        part.write_bytes(data[:-20])
    elif damage == "other":
        part.write_bytes(data.replace(b'"of": 2', b'"of": 1'))  # as long as before: part 1 of 1
    elif damage == "text":
        part.write_text("images/a.png\n")
    else:
        parts.write_text(json.dumps({**json.loads(parts.read_text()), "parts": [{"file": "../a", "rows": 1}]}))
    words = ("cat", out, tmp_path / "a.csv") if damage == "json" else ("extract", part, "--out", tmp_path / "o")
    assert command(*words, monkeypatch=monkeypatch) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "`zoo plan`" in said or "run it again" in said
