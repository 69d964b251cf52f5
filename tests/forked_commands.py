"""Commands in processes of their own, forked from a server that has imported the libraries: no start takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOADED = [
    "pytest",
    "timm",
    "matplotlib.figure",
    "pyarrow.parquet",
    "training.engine.loop",
    "training.results.export",
]
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(PRELOADED)  # the server sees the packages, not the modules of ``tests``


def run_module(module: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python -m MODULE ARGUMENTS`` in the environment of this process."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _processes.Process(target=_main, args=(module, words, cwd, dict(os.environ), streams))
        process.start()
        process.join(300)
        assert process.exitcode is not None, f"{module} {words} hangs"
        return subprocess.CompletedProcess([module, *words], process.exitcode, *(path.read_text() for path in streams))


def _main(module: str, words: list[str], cwd: Path, environment: dict[str, str], streams: list[Path]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
