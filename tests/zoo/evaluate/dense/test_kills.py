"""``zoo evaluate`` under SIGKILL: run again it ends in the JSON of an undisturbed run, and leaves no half file."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from annotated import coco, depth_images, label_images

from zoo.evaluate.protocols import PROTOCOLS

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(  # imported once, not in every life
    ["zoo.cli.main", "zoo.api", "zoo.models.resnet", "timm.models", "faster_coco_eval", *PROTOCOLS.values()]
)
_SMALL = {"batch_size": "2", "iterations": "2"}
SETTINGS: dict[str, dict[str, str]] = {
    "segment": _SMALL | {"crop": "32", "short_side": "32", "lrs": "0.01,0.1", "width": "8", "void": "9"},
    "depth": _SMALL | {"crop": "32,24", "short_side": "24", "decoder": "8,8,4,4"},
    "detect": _SMALL
    | {"sizes": "48,64", "test_size": "64", "max_size": "128", "precise": "2", "anchors": "16,24", "pool": "6"}
    | {"rois": "16", "proposals_before": "100,60", "proposals": "60,16"},
    "semi-supervised": {"percent": "50", "lr": "0.02,0.05", "epochs": "1", "batch": "16", "seeds": "2"},
    "transfer": {"mode": "fine-tuned", "steps": "2", "batch": "16", "lr": "0.02,0.05"},
}
del SETTINGS["detect"]["batch_size"]


@dataclass(frozen=True)
class Evaluation:
    """A command whose result is ``folder``/out/r.json, with a cache of its own."""

    words: list[str]
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out" / "r.json"

    def run(self, *, kill: int | None = None) -> int:
        """The command in a process of its own, which kills itself before the ``kill``-th change of a file."""
        words = [*self.words, "--out", str(self.out)]
        process = _processes.Process(target=_main, args=(words, self.folder / "cache", kill))
        process.start()
        process.join(300)
        assert process.exitcode is not None, "the evaluation hangs"
        return int(process.exitcode)

    def result(self) -> dict[str, Any]:
        """The JSON without its time; nothing else may be beside it."""
        assert os.listdir(self.out.parent) == [self.out.name]
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found | {"seconds": 0}

    def is_whole_or_absent(self) -> bool:
        return not self.out.exists() or bool(json.loads(self.out.read_text()))


def _main(words: list[str], cache: Path, kill: int | None) -> None:
    import torch

    from zoo.cli.main import main
    from zoo.evaluate.dense import finetune

    os.environ["SIAMESE_ZOO_CACHE"] = str(cache)
    torch.set_num_threads(1)
    finetune.SECONDS_PER_CHECKPOINT = 0.0
    if kill is not None:
        _arm(kill)
    sys.argv = ["zoo", "evaluate", *words]
    main()


def _arm(n: int) -> None:
    calls = count(1)

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "unlink"):  # of a file that is written, whole, and no longer needed
        setattr(os, name, counted(getattr(os, name)))


@pytest.fixture
def make(tmp_path: Path, tiles: Path, tiny_weights: str) -> Callable[[str, str], Evaluation]:
    def evaluation(protocol: str, name: str) -> Evaluation:
        data = tiles if protocol in ("semi-supervised", "transfer") else tmp_path / "data"
        if not data.exists():
            _DATA[protocol](data)
        words = [protocol, "--data", str(data), "--model", tiny_weights, "--device", "cpu"]
        words += [word for option, value in SETTINGS[protocol].items() for word in ("--set", f"{option}={value}")]
        words += ["--schedule", "small"] if protocol in _DATA else []
        return Evaluation(words, tmp_path / name)

    return evaluation


def _segment(data: Path) -> None:
    for split, photos in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        label_images(data, split, photos, void=9)


def _detect(data: Path) -> None:
    coco(data, "train", range(2))
    coco(data, "val", range(2, 4))


_DATA: dict[str, Callable[[Path], None]] = {
    "segment": _segment,
    "detect": _detect,
    "depth": lambda data: depth_images(data, range(5)),
}


def test_a_kill_before_the_result_is_renamed_leaves_no_half_file(make: Callable[[str, str], Evaluation]) -> None:
    undisturbed, killed = make("transfer", "undisturbed"), make("transfer", "killed")
    assert undisturbed.run() == 0
    for number in (2, 3):  # a finished part before its rename; then the result itself or another part
        assert killed.run(kill=number) == -signal.SIGKILL
        assert not killed.out.exists()
    assert killed.run() == 0
    assert killed.result() == undisturbed.result()
    assert not list((killed.folder / "cache").rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", SETTINGS)
def test_however_often_it_is_killed_the_result_is_the_same(
    protocol: str, make: Callable[[str, str], Evaluation]
) -> None:
    """Each life dies one change of a file later than the one before, until one reaches the end."""
    undisturbed, killed = make(protocol, "undisturbed"), make(protocol, "killed")
    assert undisturbed.run() == 0
    lives = 0
    while (code := killed.run(kill=lives + 1)) == -signal.SIGKILL:
        lives += 1
        assert killed.is_whole_or_absent()
    assert code == 0
    assert lives >= 2
    if list(killed.out.parent.glob("*.tmp")):  # the last kill was between the result's fsync and the end
        assert killed.run() == 0
    assert killed.result() == undisturbed.result()
    assert not list((killed.folder / "cache").rglob("*.tmp"))
