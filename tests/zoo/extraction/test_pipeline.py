from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from extraction_driver import PixelMeans, results, run
from pictures import encode, fill, picture

from zoo.extraction.pipeline import look_ahead, read_picture
from zoo.sources import open_source


@pytest.mark.parametrize("in_bursts", [False, True])
@pytest.mark.parametrize("ahead", [1, 5, 100])
def test_results_come_in_order_and_no_more_than_allowed_are_begun(in_bursts: bool, ahead: int) -> None:
    begun = 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal begun
        with lock:
            begun += 1
        time.sleep(0.002 * (item % 3))
        return item

    taken = []
    for result in look_ahead(work, range(40), 4, ahead, in_bursts=in_bursts):
        taken.append(result)
        time.sleep(0.001)
        limit = -(-len(taken) // ahead) * ahead if in_bursts else len(taken) + ahead
        assert begun <= limit
    assert taken == list(range(40))


def test_in_bursts_the_threads_rest_while_the_last_results_are_used() -> None:
    active = threading.Event()
    items = look_ahead(lambda item: active.set() or item, range(12), 2, 4, in_bursts=True)
    for _ in range(4):
        next(items)
    active.clear()
    assert not active.wait(0.1)
    assert next(items) == 4
    assert active.is_set()
    items.close()


def test_closing_drops_what_has_not_begun_and_leaves_no_thread() -> None:
    done = []

    def slow(item: int) -> int:
        time.sleep(0.02)
        done.append(item)
        return item

    before = threading.active_count()
    items = look_ahead(slow, range(1000), 2, 500)
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before
    assert len(done) < 10


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def fails(item: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(look_ahead(fails, range(3), 2, 2))


def test_on_a_gpu_and_on_the_cpu_every_image_gets_the_same_vector(tmp_path: Path) -> None:
    images = fill(tmp_path / "images")
    for device in ("cpu", "cuda"):
        run(images, tmp_path / device, embedder=PixelMeans(device=device), format="npy", workers=3)
    cpu, cuda = results(tmp_path / "cpu"), results(tmp_path / "cuda")
    vectors = [name for name in cpu if name.endswith(".npy")]
    assert len(vectors) == 4
    assert all(cpu[name] == cuda[name] for name in vectors)


def test_a_picture_is_read_hashed_and_measured_upright(tmp_path: Path) -> None:
    data = encode(picture(60, 40), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    status = (tmp_path / "a.png").stat()
    row = {"path": b"a.png", "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    read = read_picture(open_source(tmp_path), row, PixelMeans(), 60 * 40)
    assert (read.status, read.width, read.height) == ("ok", 60, 40)
    assert read.views is not None
    assert [view.shape for view in read.views] == [(32, 32, 3)]
    refused = read_picture(open_source(tmp_path), row, PixelMeans(), 60 * 40 - 1)
    assert (refused.status, refused.sha256, refused.views) == ("too-large", read.sha256, None)
