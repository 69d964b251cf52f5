"""Forks processes that all fetch the same weights at once and kills some; run by ``test_pretrained.py`` as a script.

Forking comes after the imports and before any thread, so that eight processes start in an instant.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import test_pretrained

import zoo.convert.byol  # noqa: F401
from zoo.hub import http_download, pretrained
from zoo.models import registry


def child(start: int) -> int:
    os.read(start, 1)  # until the parent closes the other end: all begin together
    try:
        line = str(pretrained.fetch_by_name(test_pretrained.NAME))
        return 0
    except BaseException as error:
        line = repr(error)
        return 1
    finally:
        os.write(sys.stdout.fileno(), f"{line}\n".encode())  # one write: lines of several processes never mix


def main(processes: int, delays: list[float]) -> None:
    """Prints the exit codes as JSON; the first ``len(delays)`` processes are killed after so many seconds each."""
    found = test_pretrained.Architecture(**vars(test_pretrained.R14) | {"parameters": test_pretrained.parameters()})
    http_download.READ_SECONDS, http_download._BACKOFF = 0.5, 0.01
    registry.ARCHITECTURES["r14"] = found  # type: ignore[index]
    registry.MODELS["byol_r14"] = test_pretrained.spec()  # type: ignore[index]
    start, go = os.pipe()
    children = []
    for _ in range(processes):
        if (pid := os.fork()) == 0:
            os.close(go)
            os._exit(child(start))
        children.append(pid)
    os.close(go)
    for pid, delay in zip(children, delays, strict=False):
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(json.dumps(codes))


if __name__ == "__main__":
    main(int(sys.argv[1]), [float(delay) for delay in sys.argv[2:]])
