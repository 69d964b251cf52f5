"""Two hundred SIGKILLs at random moments of nine commands: a second run puts everything right.

Each command runs once undisturbed. Then, again and again, it starts in a fresh copy of the same folder, is killed at a
random moment of its life, and runs a second time with the same words: the files are then those of the undisturbed run,
by name and by bytes. Slow: ``pytest -m slow -n 2 tests/faults/test_kill_campaign.py``; ``--kills 9`` kills each
command once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import WRITE_TOKEN, HubServer
from tiny_runs import assert_same_state, last

from zoo.errors import EXIT_OK

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
MODEL = "simclr_r18_mini"


@dataclass(frozen=True)
class Command:
    """A command of the campaign.

    Attributes:
        words: module and arguments; paths are relative to the folder that it runs in.
        before: commands that prepare this folder.
        resume: a word that a second run adds where the first one has left a checkpoint.
    """

    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    resume: str = ""


EXTRACT = ("zoo", "extract", "--images", "images", "--out", "out", "--shard-size", "8")
TRAIN = ("training", "run", "simclr_r18_tin32", "--data", "images", "--out", "run", "--device", "cpu",
         *(word for text in ("optim.batch_size=8", "optim.epochs=4", "optim.warmup_epochs=1", "monitor_epochs=0",
                             "checkpoint_steps=2", "precision=fp32") for word in ("--set", text)))  # fmt: skip
COMMANDS = {
    "extract": Command(EXTRACT),
    "update": Command((*EXTRACT, "--update"), (EXTRACT, ("grow",))),
    "dedupe": Command((*EXTRACT, "--dedupe"), (("grow",),)),
    "index": Command(("zoo", "index", "out"), (EXTRACT,)),
    "cat": Command(("zoo", "cat", "out", "all.npy"), (EXTRACT,)),
    "train": Command(TRAIN, resume="--resume"),
    "export": Command(("zoo", "export", "--model", MODEL, "--out", "model.onnx")),
    "publish": Command(("zoo", "publish", MODEL, "--repo", "org/model", "--no-int8")),
    "evaluate": Command(("zoo", "evaluate", "knn", "--data", "labelled", "--out", "knn.json", "--set", "k=3")),
}


def start(folder: Path, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """A process as a shell starts it: huggingface_hub reads its variables when it is imported."""
    with (folder.with_suffix(".stderr")).open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr, env=os.environ
        )


def run(folder: Path, words: tuple[str, ...]) -> int:
    if words == ("grow",):
        shutil.copy(folder / "images" / "cat_kitten.jpg", folder / "images" / "cat_again.jpg")
        return EXIT_OK
    code = start(folder, words).wait(300)
    assert "Traceback" not in (text := folder.with_suffix(".stderr").read_text()), text
    return code


def run_and_kill(folder: Path, words: tuple[str, ...], seconds: float) -> bool:
    """Kill the command after so many seconds; return whether it still ran then."""
    process = start(folder, words)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        process.kill()
        process.wait()


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file of a folder, but for logs; checkpoints are compared by what they hold."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.suffix == ".jsonl":
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            facts = json.loads(data)
            if "seconds" in facts:  # the JSON of a result: times are not the same twice
                data = json.dumps([(key, value) for key, value in facts.items() if key != "seconds"]).encode()
        if path.parent.name == "run":
            data = b""
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def published(hub: HubServer) -> Any:
    """What is live on the hub, without the card's date."""
    repository = hub.repositories.get("org/model")
    commit = repository.find("main") if repository else None
    return None if commit is None else {name: data for name, data in commit.files.items() if name != "README.md"}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_killed_at_random_moments_is_put_right_by_a_second_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    command, draw = COMMANDS[name], random.Random(name)
    kills = -(-request.config.getoption("--kills") // len(COMMANDS))
    begin = tmp_path / "begin"
    shutil.copytree(PHOTOS, begin / "images", ignore=shutil.ignore_patterns("*.md"))
    for number, photo in enumerate(sorted((begin / "images").glob("*.jpg"))[:20]):
        target = begin / "labelled" / ("test" if number % 4 == 0 else "train") / f"class{number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, target)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for words in command.before:
        assert run(begin, words) == EXIT_OK, words

    def fresh(folder: Path) -> Path:
        shutil.copytree(begin, folder)  # with the times of the files, which a plan holds
        return folder

    def whole(folder: Path, act: Callable[[], object]) -> tuple[dict[str, str], Any]:
        with HubServer() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            act()
            return contents(folder), published(hub)

    undisturbed = fresh(tmp_path / "undisturbed")
    whole(fresh(tmp_path / "warm"), lambda: run(tmp_path / "warm", command.words))  # fills caches
    began = time.monotonic()
    codes: list[int] = []
    expected = whole(undisturbed, lambda: codes.append(run(undisturbed, command.words)))
    assert codes == [EXIT_OK]
    life = time.monotonic() - began
    assert len(expected[0]) > len(contents(begin)) or expected[1], "the command must have left something"

    killed = 0
    for number in range(kills):
        folder = fresh(tmp_path / f"killed{number}")

        def kill_and_run_again(folder: Path = folder) -> None:
            nonlocal killed
            killed += run_and_kill(folder, command.words, draw.uniform(0, life))
            resumed = command.resume and (folder / "run" / "last.json").exists()
            complete = contents(folder)  # then the second run may refuse to replace the file
            code = run(folder, (*command.words, command.resume) if resumed else command.words)
            assert code == EXIT_OK or complete == expected[0], code

        assert whole(folder, kill_and_run_again) == expected, number
        if command.resume:
            assert_same_state(last(folder / "run"), last(undisturbed / "run"))
        shutil.rmtree(folder)
    assert killed > kills // 3 or kills < 3, "many must have been killed before their end"
