"""The second use of a result: with fewer options than the first, with others, after the images were moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from extraction_driver import PixelMeans, results, run

from zoo.cli.messages import print_extraction
from zoo.embeddings.run_log import LOG, SOURCE, last_start
from zoo.errors import UserError
from zoo.search.image_source import recorded_images


def test_sizes_that_nobody_asks_for_are_those_of_the_folder(images: Path, out: Path) -> None:
    explicit = out.with_name("explicit")
    for folder in (out, explicit):
        run(images, folder, batch_size=3, shard_size=6)
    assert run(images, out, batch_size=None, shard_size=None).reused == 20
    next(images.rglob("*.*")).unlink()
    run(images, explicit, batch_size=3, shard_size=6, update=True)
    updated = run(images, out, batch_size=None, shard_size=None, update=True)
    assert (updated.total, updated.shards) == (19, 4)
    assert results(out) == results(explicit)


@pytest.mark.parametrize(
    ("first", "then", "advice"),
    [
        ({}, {"shard_size": 5}, "add --shard-size 6, or "),
        ({"dtype": "float16"}, {}, "add --dtype float16, or "),
        ({"format": "npy", "dtype": "float16"}, {}, "add --format npy and add --dtype float16, or "),
        ({"dedupe": True}, {}, "add --dedupe, or "),
        ({"dedupe": True, "near": 0.98}, {}, "add --dedupe --near 0.98, or "),
        ({}, {"dedupe": True}, "leave out --dedupe, or "),
        ({"keep": ("folder",)}, {}, "add --keep folder, or "),
        ({}, {"keep": ("folder",)}, "leave out --keep, or "),
        ({"max_pixels": 10**6}, {}, "add --max-pixels 1000000, or "),
        ({}, {"embedder": PixelMeans(name="other")}, "now: choose"),  # a file: nobody knows where it is
        ({}, {"embedder": PixelMeans(device="cuda")}, "now: choose"),
    ],
)
def test_other_options_are_named_as_they_are_typed(
    first: dict[str, object], then: dict[str, object], advice: str, images: Path, out: Path
) -> None:
    run(images, out, **first)
    with pytest.raises(UserError) as refused:
        run(images, out, **then)
    assert advice in str(refused.value)
    assert str(refused.value).endswith("choose another --out")


def test_images_that_moved_are_found_again_after_a_run_that_had_nothing_to_do(images: Path, out: Path) -> None:
    run(images, out)
    moved = Path(shutil.move(images, images.with_name("moved")))
    with pytest.raises(UserError, match="which is gone"):
        recorded_images(out)
    assert run(moved, out).reused == 20
    assert recorded_images(out) == str(moved)
    lines = (out / LOG).read_text()
    run(moved, out)
    assert (out / LOG).read_text() == lines, "only a change is recorded"
    assert last_start(out)[SOURCE] == str(moved)


def test_a_result_in_a_line_says_what_failed(images: Path, out: Path) -> None:
    (images / "broken<b>.jpg").write_bytes(b"no picture")
    done = run(images, out)
    assert repr(done) == f"Extraction({str(out)!r}: 20 of 21 images embedded; failed: 1 not-an-image)"
    html = done._repr_html_()
    assert "broken&lt;b&gt;.jpg: not-an-image (a text file" in html
    assert "all_rows" not in html
    for number in range(9):
        (images / f"broken{number}.jpg").write_bytes(b"")
    assert "and 2 more: zoo.read(" in run(images, out, update=True)._repr_html_()


def test_a_failure_says_how_to_go_on_and_that_is_true(
    images: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.jpg").write_bytes(b"no picture")
    print_extraction(run(images, out), out)
    assert capsys.readouterr().err.splitlines()[-1] == "mended files are tried again by the same command with --update"
    shutil.copy(next(images.rglob("*.jpeg")), images / "broken.jpg")
    print_extraction(run(images, out, update=True), out)
    assert "--update" not in capsys.readouterr().err
