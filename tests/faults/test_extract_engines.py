"""Every engine under SIGKILL, beside a second run, and on a full disk: the bytes of one undisturbed run of its own.

``test_extract_kill.py`` goes through every step with a network that takes no time. Here are the real ones.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from extraction_driver import assert_tidy, finish, results, start
from pictures import fill

from zoo.errors import EXIT_OK, EXIT_USER_ERROR
from zoo.export import export
from zoo.export.onnx_cache import cached_onnx
from zoo.extraction.partition import Partition
from zoo.hub.weights import locate


@pytest.fixture(scope="module", params=["torch", "onnx fp32", "onnx int8"])
def model(request: pytest.FixtureRequest) -> Iterator[Path]:
    if request.param == "torch":
        yield request.getfixturevalue("random_weights")
        return
    core = request.getfixturevalue("mini_core")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace_core", lambda embedder: core)
        yield cached_onnx(locate("simclr_r18_mini"), request.param.removeprefix("onnx "))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("images"), 14)


@pytest.fixture(scope="module")
def expected(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert finish(images, out, model=model) == EXIT_OK
    return results(out)


def test_killed_before_a_step_the_result_is_the_same(
    images: Path, tmp_path: Path, model: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    for n in (9, 12):  # in two shards, one after the other
        assert finish(images, out, model=model, kill=n) == -signal.SIGKILL
    assert finish(images, out, model=model) == EXIT_OK
    assert results(out) == expected
    assert_tidy(out)


@pytest.mark.slow
def test_killed_before_every_step_the_result_is_the_same(
    images: Path, tmp_path: Path, model: Path, expected: dict[str, str]
) -> None:
    for n in itertools.count(1):
        out = tmp_path / f"out{n}"
        killed = finish(images, out, model=model, kill=n) == -signal.SIGKILL
        assert finish(images, out, model=model) == EXIT_OK
        assert results(out) == expected
        assert_tidy(out)
        if not killed:
            assert n > 20
            return


@pytest.mark.slow
def test_killed_at_twenty_moments_the_result_is_the_same(
    images: Path, tmp_path: Path, model: Path, expected: dict[str, str]
) -> None:
    moments, kills = random.Random(0), 0
    for attempt in itertools.count():
        out = tmp_path / f"out{attempt}"
        while kills < 20:
            process = start(images, out, model=model, batch_size=3)
            while process.is_alive() and not (out / ".zoo").exists():
                process.join(0.01)  # loading the model takes longer than all the rest
            process.join(moments.uniform(0, 0.2))
            process.kill()
            process.join()
            kills += 1
            if process.exitcode == EXIT_OK:
                break
        assert finish(images, out, model=model) == EXIT_OK
        assert results(out) == expected
        assert_tidy(out)
        if kills == 20:
            return


def test_two_runs_for_one_folder_and_a_share_killed_beside_them(
    images: Path, tmp_path: Path, model: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    killed = start(images, out, model=model, partition=Partition(1, 2), kill=9)
    racing = [start(images, out, model=model) for _ in range(2)]
    for process in (killed, *racing):
        process.join(120)
    assert [process.exitcode for process in racing] == [EXIT_OK] * 2
    assert killed.exitcode in (-signal.SIGKILL, EXIT_OK), "with nothing left to do it makes fewer steps"
    assert finish(images, out, model=model) == EXIT_OK, "what the killed one left is swept"
    assert results(out) == expected
    assert_tidy(out)


def test_on_a_full_disk_it_stops_and_its_shares_go_on_when_there_is_room(
    images: Path, tmp_path: Path, model: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    assert finish(images, out, model=model, largest_file=10_000) == EXIT_USER_ERROR, "a shard has 12 kB of vectors"
    assert '"stopped"' in (out / "_run.log.jsonl").read_text()
    assert not any((out / ".zoo" / "tmp").iterdir())
    assert finish(images, out, model=model, partition=Partition(1, 2)) == EXIT_OK
    assert finish(images, out, model=model, partition=Partition(0, 2)) == EXIT_OK
    assert results(out) == expected
    assert_tidy(out)
