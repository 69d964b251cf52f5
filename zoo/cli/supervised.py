"""Under a limit of addresses (``ulimit -v``) a command runs in a child process, whose death becomes one line.

Short of memory, native libraries do not always raise: OpenBLAS calls ``exit(1)``, an exception in a thread of Arrow or
ONNX Runtime calls ``std::terminate``, and others follow a null pointer. No handler inside of that process can tell its
user what to do. Without such a limit, and where there is no Linux, there is no second process.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

_DEATHS = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Ended:
    """Tells the parent that the process ended by itself.

    Attributes:
        descriptor: end of a pipe to the parent; ``None`` without one.
    """

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    def tell(self) -> None:
        """Say that the exit code, whatever it is, is meant."""
        if self.descriptor is not None:
            with suppress(OSError):
                os.write(self.descriptor, b".")


def in_child_if_limited(death: bytes, code: int) -> Ended:
    """Return in the process that does the work: a child if addresses are limited.

    The parent never returns. It hands signals on, and ends as its child did.

    Args:
        death: line for stderr if a library ended the child.
        code: exit code of the parent in this case.
    """
    if sys.platform != "linux" or not _is_limited():
        return Ended(None)
    reading, writing = os.pipe()
    handed_on = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *handed_on})
    child = os.fork()
    if child == 0:
        os.close(reading)
        _die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return Ended(writing)
    os.close(writing)
    status = _wait(child, handed_on)
    os.set_blocking(reading, False)
    told = b""
    with suppress(BlockingIOError):
        told = os.read(reading, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if by is None and (told or os.WEXITSTATUS(status) == 0):
        os._exit(os.WEXITSTATUS(status))
    if by is None or by in _DEATHS:
        with suppress(OSError):
            os.write(2, death)
        os._exit(code)
    signal.signal(by, signal.SIG_DFL) if by != signal.SIGKILL else None
    os.kill(os.getpid(), by)
    os._exit(128 + by)


def _is_limited() -> bool:
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _wait(child: int, handed_on: set[signal.Signals]) -> int:
    """Return the status of the child once it has ended."""
    while True:
        found = signal.sigwaitinfo({signal.SIGCHLD, *handed_on})
        if found.si_signo != signal.SIGCHLD:
            # A terminal sends Ctrl-C to both processes (si_code of the kernel is above 0): twice means something else.
            if found.si_code <= 0:
                with suppress(ProcessLookupError):
                    os.kill(child, found.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


def _die_with_parent() -> None:
    """Let SIGKILL of the parent end this process, too."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
