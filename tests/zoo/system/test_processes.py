"""Whether a process still runs."""

from __future__ import annotations

import os
import subprocess

from zoo.system.processes import is_alive


def test_a_process_that_nobody_waited_for_is_not_alive() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and keeps its number
    assert not is_alive(ended.pid)
    assert is_alive(os.getpid())
    ended.wait()
