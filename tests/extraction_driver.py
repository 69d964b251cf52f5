"""Extraction in processes of their own that tests can kill, with a network small enough to start at once.

``start`` forks from a server that has imported everything but has started no thread, so a run takes a few
hundredths of a second. pyarrow imports pandas at its first array where pandas is installed, and a real network needs
torch: without them in the server each process would take seconds.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.Image import init as load_all_formats

import zoo
from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_FAILED, EXIT_USER_ERROR, UserError
from zoo.extraction.extract import run_extraction
from zoo.extraction.extraction import Extraction
from zoo.extraction.fingerprint import ExtractionConfig
from zoo.inference.outputs import Outputs
from zoo.system.atomic_files import sha256_file
from zoo.system.hardware import CORES
from zoo.transforms.preprocess import Preprocessing

_open = os.open
load_all_formats()  # Pillow imports them one by one at its first image
_processes = multiprocessing.get_context("forkserver")
_IMPORTED = ("pytest", "pandas", "pyarrow.csv", "pyarrow.pandas_compat", "numpy.random", "timm", "zoo.cli.messages")
_processes.set_forkserver_preload([*_IMPORTED, "extraction_driver"])


class PixelMeans:
    """A linear map of the means over a grid of cells: a network as far as extraction can tell.

    seconds: how long a batch takes at the least. name, device: go into the identity. stages: give the means of each
    channel, and of each cell, as layer and map, too.
    """

    def __init__(
        self, seconds: float = 0.0, name: str = "pixel_means", device: str = "cpu", stages: bool = False
    ) -> None:
        self.preprocessing = Preprocessing(input_size=32, resize=36)
        self.dim = 24
        self.requested = Outputs(layers=("layer1",), maps=("layer1",)) if stages else Outputs()
        self.shapes = {"embedding": (self.dim,)} | ({"layer1": (3,), "layer1_map": (3, 4, 4)} if stages else {})
        self._seconds = seconds
        self._name = name
        self._device = device
        self._weights = np.random.default_rng(0).normal(size=(4 * 4 * 3, self.dim)).astype(np.float32)

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self._seconds)
        means = pixels.reshape(len(pixels), 4, 8, 4, 8, 3).mean(axis=(2, 4), dtype=np.float32)
        return (means.reshape(len(pixels), -1) / 255) @ self._weights

    def views(self, image: Image) -> list[NDArray[np.uint8]]:
        return [self.preprocessing.pixels(image)]

    def outputs_of(self, views: Sequence[Sequence[NDArray[np.uint8]]], at_once: int = 32) -> dict[str, Any]:
        pixels = np.stack([of_image[0] for of_image in views])
        found = {"embedding": self.embed_pixels(pixels)}
        if self.requested.maps:
            cells = pixels.reshape(len(pixels), 4, 8, 4, 8, 3).mean(axis=(2, 4), dtype=np.float32).transpose(0, 3, 1, 2)
            found |= {"layer1": cells.mean((2, 3)), "layer1_map": np.ascontiguousarray(cells)}
        return found

    def identity(self) -> dict[str, Any]:
        return {"model": self._name, "preprocessing": self.preprocessing.to_json(), "device": self._device}


def run(images: str | Path, out: Path, **options: Any) -> Extraction:
    """``run_extraction`` with small batches and shards, so that twenty images make several of both.

    options: of ``ExtractionConfig`` and of ``run_extraction``; ``embedder`` is its model.
    """
    small: dict[str, Any] = {"embedder": PixelMeans(), "batch_size": 3, "shard_size": 6, "workers": 2, **options}
    config = {field.name: small.pop(field.name) for field in fields(ExtractionConfig) if field.name in small}
    return run_extraction(images, out, model=small.pop("embedder"), config=ExtractionConfig(**config), **small)


def start(images: Path, out: Path, *, kill: int | None = None, seconds: float = 0.0, stages: bool = False,
          model: Path | None = None, largest_file: int | None = None, **options: Any) -> Any:  # fmt: skip
    """A process that runs ``run``; its exit code is the one ``zoo extract`` has.

    kill: the process kills itself before the n-th call of a function of os that changes files, n from 1. model: a file
    for ``zoo.load`` in place of ``PixelMeans``. largest_file: in bytes; writing more fails as on a full disk.
    """
    embedder = PixelMeans(seconds, stages=stages) if model is None else model
    process = _processes.Process(target=_main, args=(images, out, kill, embedder, largest_file, options))
    process.start()
    return process


def finish(images: Path, out: Path, **options: Any) -> int:
    """``start``, wait, exit code."""
    process = start(images, out, **options)
    process.join(180)
    assert process.exitcode is not None, "the run hangs"
    return int(process.exitcode)


def start_command(log: Path, *words: object) -> Any:
    """A process that is ``zoo WORDS``, with all that it prints in the file ``log``."""
    process = _processes.Process(target=_command, args=(log, [str(word) for word in words]))
    process.start()
    return process


def results(out: Path) -> dict[str, str]:
    """The hash of every result file; the log of the runs is not one, and nothing else may be there."""
    assert {path.name for path in out.iterdir() if path.is_dir()} == {".zoo"}
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}
    files.pop("_run.log.jsonl", None)
    return files


def assert_tidy(out: Path) -> None:
    """Nothing is left of runs that did not end."""
    state = {path.name for path in (out / ".zoo").rglob("*")}
    assert state - {"manifest.sha256"} == {"plan.parquet", "tmp"}  # a kill right before the hash leaves none
    if "manifest.sha256" in state:
        recorded = (out / ".zoo" / "manifest.sha256").read_text()
        assert recorded == f"{sha256_file(out / '_manifest.json')}  _manifest.json\n"
    assert all(name.endswith((".parquet", ".npy", ".safetensors")) or name == "_manifest.json" for name in results(out))


def _main(images: Path, out: Path, kill: int | None, embedder: PixelMeans | Path, largest_file: int | None,
          options: dict[str, Any]) -> None:  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits "ignore"
    os.environ["OMP_NUM_THREADS"] = os.environ[CORES] = "1"  # threads of many processes would wait for each other
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # the server read the variable before this process set it
    engine = zoo.load(embedder, device="cpu") if isinstance(embedder, Path) else embedder
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if kill is not None:
        _arm(kill)
    try:
        result = run(images, out, embedder=engine, **options)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(EXIT_SOME_FAILED if result.failed else EXIT_OK)


def _command(log: Path, words: list[str]) -> None:
    from zoo.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell starts it
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["zoo", *words]
    main()


def _arm(n: int) -> None:
    calls = 0

    def count(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if original is not _open or args[1] & os.O_CREAT:
                calls += 1
                if calls == n:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return counted

    for name in ("open", "fsync", "replace", "link", "unlink", "mkdir", "rmdir"):
        setattr(os, name, count(getattr(os, name)))
