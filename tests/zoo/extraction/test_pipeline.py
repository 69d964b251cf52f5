from __future__ import annotations

from pathlib import Path

from extraction_driver import PixelMeans, results, run
from pictures import encode, fill, picture

from zoo.extraction.pipeline import read_image
from zoo.sources import open_source


def test_on_a_gpu_and_on_the_cpu_every_image_gets_the_same_vector(tmp_path: Path) -> None:
    images = fill(tmp_path / "images")
    for device in ("cpu", "cuda"):
        run(images, tmp_path / device, embedder=PixelMeans(device=device), format="npy", workers=3)
    cpu, cuda = results(tmp_path / "cpu"), results(tmp_path / "cuda")
    vectors = [name for name in cpu if name.endswith(".npy")]
    assert len(vectors) == 4
    assert all(cpu[name] == cuda[name] for name in vectors)


def test_an_image_is_read_hashed_and_measured_upright(tmp_path: Path) -> None:
    data = encode(picture(60, 40), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    status = (tmp_path / "a.png").stat()
    row = {"path": b"a.png", "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    read = read_image(open_source(tmp_path), row, PixelMeans(), 60 * 40)
    assert (read.status, read.width, read.height) == ("ok", 60, 40)
    assert read.views is not None
    assert [view.shape for view in read.views] == [(32, 32, 3)]
    refused = read_image(open_source(tmp_path), row, PixelMeans(), 60 * 40 - 1)
    assert (refused.status, refused.sha256, refused.views) == ("too-large", read.sha256, None)
