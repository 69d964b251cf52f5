"""Curves from logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from training.monitoring import metrics_log
from training.monitoring.loggers import TensorBoard
from training.monitoring.metrics_log import MetricsLog
from training.results.plot import plot
from zoo.errors import UserError


def write_log(folder: Path, offset: float) -> Path:
    folder.mkdir()
    with MetricsLog(folder) as log:
        for step in range(20, 2001, 20):
            log.write(step, {"loss": offset - step / 1000, "lr": 0.1, "tau": 0.99})
        log.write(2000, {"epoch": 1, "knn": 40 + offset, "spread": 0.8})
    return folder


def test_runs_become_one_picture_with_a_panel_for_each_thing_logged(tmp_path: Path) -> None:
    runs = [write_log(tmp_path / name, n) for n, name in enumerate(("a", "b"))]
    assert plot(runs, tmp_path / "c.png") == ["loss", "knn", "spread", "lr", "tau"]
    with Image.open(tmp_path / "c.png") as image:
        assert image.width > 1000
    alone = tmp_path / "alone.png"
    assert plot(runs[:1], alone) == ["loss", "knn", "spread", "lr", "tau"]


@pytest.mark.parametrize(("name", "start"), [("c.pdf", b"%PDF"), ("c.SVG", b"<?xml"), ("c", b"\x89PNG")])
def test_the_ending_of_the_name_decides_the_format(name: str, start: bytes, tmp_path: Path) -> None:
    runs = [write_log(tmp_path / "a", 0)]
    plot(runs, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(UserError, match=r"c\.jpg: give a name that ends in \.png, \.pdf or \.svg"):
        plot(runs, tmp_path / "c.jpg")


def test_a_log_is_trimmed_to_the_step_that_was_saved(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", 0)
    metrics_log.trim(folder, 400)
    assert [line["step"] for line in metrics_log.read(folder)] == list(range(20, 401, 20))


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", 0)
    before = metrics_log.read(folder)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 2020, "lo')
    assert metrics_log.read(folder) == before
    metrics_log.trim(folder, 5000)
    with MetricsLog(folder) as log:
        log.write(2020, {"loss": 1.0})
    assert metrics_log.read(folder) == [*before, {"step": 2020, "loss": 1.0}]


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        plot([tmp_path], tmp_path / "c.png")
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 0, "hardware": "cpu"}) + "\n")
    with pytest.raises(UserError, match="nothing to draw yet"):
        plot([tmp_path], tmp_path / "c.png")
    for damaged in ("{\n", "[]\n", '{"loss": 1}\n', "\0\n"):
        (tmp_path / "log.jsonl").write_text(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            plot([tmp_path], tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsLog(tmp_path, [TensorBoard(tmp_path, 0, {})]) as log:
        log.write(20, {"loss": 1.5, "hardware": "cpu"})
        log.write(40, {"loss": 1.25})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(20, 1.5), (40, 1.25)]
