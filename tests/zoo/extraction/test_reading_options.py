"""How images are read is in the fingerprint, the rows and the manifest, where it is not as always."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture
from PIL import Image

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.cli.messages import print_extraction
from zoo.embeddings.verify import verify
from zoo.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = picture(300, 200, seed=4)
    (folder / "cut.jpg").write_bytes(encode(photo, "JPEG")[:-2000])
    (folder / "dark.png").write_bytes(encode(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG"))
    (folder / "good.png").write_bytes(encode(photo, "PNG", icc_profile=b"no profile" * 20))
    (folder / "no end.jpg").write_bytes(encode(photo, "JPEG")[:-2])
    for name in ("._good.png", ".DS_Store", "a.txt", "b.txt", "c.heif", "README"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    return folder


def extract(photos: Path, out: Path, **options: Any) -> Any:
    return zoo.extract(photos, out, backend="torch", device="cpu", **options)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    table = pq.read_table(out / "embeddings-00000.parquet").to_pylist()
    return {row["path"]: row for row in table}


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "_manifest.json").read_bytes())
    return found


def test_by_default_a_truncated_file_is_refused_and_dark_gray_is_told(photos: Path, tmp_path: Path) -> None:
    result = extract(photos, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert {path: row["status"] for path, row in found.items()} == {
        "cut.jpg": "truncated", "dark.png": "ok", "good.png": "ok", "no end.jpg": "ok",
    }  # fmt: skip
    assert [path for path, row in found.items() if row["status"] == "ok" and row["error"]] == ["dark.png"]
    written = manifest(tmp_path / "out")
    assert written["notes"] == result.marked == {"dark-16-bit": 1}
    assert written["left_out"] == result.left_out == {"": 1, ".heif": 1, ".txt": 2, "hidden": 2}
    assert {"truncated", "littlecms"}.isdisjoint(written["decoder"])
    assert written["decoder"]["colour_profile"] == "ignored"
    verify(tmp_path / "out")


def test_choices_are_in_the_fingerprint_and_what_they_did_in_the_rows(photos: Path, tmp_path: Path) -> None:
    result = extract(photos, tmp_path / "out", truncated="accept", icc="convert", white16=4095)
    found = rows(tmp_path / "out")
    assert {row["status"] for row in found.values()} == {"ok"}
    assert found["cut.jpg"]["error"].startswith("truncated: ")
    assert found["good.png"]["error"].startswith("profile-ignored: ")
    assert found["no end.jpg"]["error"] is found["dark.png"]["error"] is None
    decoder = manifest(tmp_path / "out")["decoder"]
    assert (decoder["truncated"], decoder["colour_profile"], decoder["gray16"]) == ("accept", "to sRGB", "255/4095")
    assert manifest(tmp_path / "out")["notes"] == result.marked == {"profile-ignored": 1, "truncated": 1}
    verify(tmp_path / "out")
    # A second run agrees; one without the choices is told which.
    (photos / "d.txt").touch()
    assert extract(photos, tmp_path / "out", truncated="accept", icc="convert", white16=4095).reused == 4
    with pytest.raises(UserError, match=r"decoder.*white16|decoder\.(gray16|colour_profile|truncated)"):
        extract(photos, tmp_path / "out")


def test_a_progressive_jpeg_without_its_last_scans_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    whole = encode(picture(200, 150), "JPEG", progressive=True)
    (tmp_path / "photos" / "a.jpg").write_bytes(whole[: whole.rindex(b"\xff\xc4")] + b"\xff\xd9")
    (tmp_path / "photos" / "b.jpg").write_bytes(whole)
    result = extract(tmp_path / "photos", tmp_path / "out")
    print_extraction(result, tmp_path / "out")
    assert (result.ok, result.marked) == (2, {"incomplete": 1})
    assert rows(tmp_path / "out")["a.jpg"]["error"].startswith("incomplete: ")
    assert "1 image from progressive JPEGs without their last scans" in capsys.readouterr().out


def test_notes_that_were_changed_in_the_manifest_are_found(photos: Path, tmp_path: Path) -> None:
    extract(photos, tmp_path / "out")
    path = tmp_path / "out" / "_manifest.json"
    path.write_text(json.dumps(manifest(tmp_path / "out") | {"notes": {"dark-16-bit": 2}}))
    with pytest.raises(UserError, match=r"notes|manifest"):
        verify(tmp_path / "out")


def test_the_command_takes_the_images_as_an_argument_and_says_what_it_left_out(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["zoo", *map(str, words)])
        return exit_code(app, "zoo", "run it again")

    common = ("--out", tmp_path / "out", "--backend", "torch", "--device", "cpu")
    assert run("extract", photos, *common) == 3
    said = capsys.readouterr()
    assert "left out: 6 files" in said.out
    assert "2 .txt, 2 hidden, 1 without extension, 1 .heif" in said.out
    assert 'pip install "siamese-zoo[heic]"' in said.out
    assert "--white16 4095" in said.out
    assert run("extract", "--images", photos, *common) == 3
    assert "nothing was left to do" in capsys.readouterr().out
    assert run("extract", photos, "--images", photos, *common) == 2
    assert "given twice" in capsys.readouterr().err
    assert run("extract", *common) == 2
    assert "give the images: zoo extract IMAGES --out OUT" in capsys.readouterr().err


def test_too_many_pixels_name_the_option(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encode(picture(), "PNG"))
    result = extract(tmp_path / "photos", tmp_path / "out", max_pixels=100)
    assert result.failures == (("a.png", "too-large", "60 x 40 pixels, more than the 100 of --max-pixels"),)
