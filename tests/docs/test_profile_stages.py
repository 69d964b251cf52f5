"""The profile of an extraction puts each sample of py-spy into the stage that the code there serves."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READ_IMAGE = "read_image (zoo/extraction/pipeline.py)"


@pytest.fixture(autouse=True)
def scripts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def line_of(path: str, text: str) -> str:
    """Return ``function (file:line)`` of the first line that holds a text, as py-spy writes a frame."""
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        if text in line:
            return f"read_image ({ROOT / path}:{number})"
    raise AssertionError(f"{text} is not in {path}")


@pytest.mark.parametrize(
    ("inner", "stage"),
    [
        (["ImageFile.load (PIL/ImageFile.py:425)"], "decode"),
        (["Preprocessing._resize (zoo/transforms/preprocess.py:313)", "Image.resize (PIL/Image.py:2440)"], "resize"),
        (["ImageFolder.read (zoo/sources/image_files.py:52)"], "read"),
        (["list_images (zoo/sources/file_listing.py:128)", "_splitext (<frozen genericpath>:139)"], "list"),
        (["OnnxEngine.run (zoo/inference/onnx_backend.py:113)", "Session.run (onnxruntime/capi/x.py:395)"], "network"),
        (["_encode (zoo/embeddings/shards.py:332)", "ParquetWriter.write_table (pyarrow/parquet/core.py:9)"], "commit"),
        (["_find_and_load (<frozen importlib._bootstrap>:1176)"], "imports"),
        (["Future.set_result (concurrent/futures/_base.py:543)"], "rows and threads"),
        (["Thread.run (threading.py:982)", "_worker (concurrent/futures/thread.py:81)"], "waiting"),
        (["one (elsewhere.py:1)"], "rows and threads"),  # called by the extraction
    ],
)
def test_a_sample_belongs_to_the_innermost_frame_that_says_something(inner: list[str], stage: str) -> None:
    from extraction_profile import stage_of

    assert stage_of(";".join([READ_IMAGE, *inner])) == stage


def test_the_hash_is_told_from_the_lines_beside_it() -> None:
    from extraction_profile import stage_of

    assert stage_of(line_of("zoo/extraction/pipeline.py", "hashlib.sha256(data)")) == "hash"
    assert stage_of(line_of("zoo/extraction/pipeline.py", "data = source.read(row)")) == "rows and threads"


def test_a_frame_of_no_stage_is_other() -> None:
    from extraction_profile import stage_of

    assert stage_of("main (somewhere.py:1)") == "other"
