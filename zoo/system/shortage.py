"""Tell a shortage of this machine (memory, open files, threads) from a fault of the file that was read meanwhile.

A shortage must end a run: recorded as the fault of an image, it would leave a row without a vector in a result that
looks complete, and a run with more memory would never try that image again.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zoo.errors import UserError

_SPARE = 32 << 20  # bytes; a process that cannot get them cannot decode a small image either
_FILES = {errno.EMFILE, errno.ENFILE}
_MEMORY_WORDS = (
    "can't allocate memory",  # torch
    "cannot allocate memory",  # the system, at fork, mmap or the load of a library
    "failed to map segment",  # the dynamic linker
    "bad allocation",  # ONNX Runtime
    "bad_alloc",
    "out of memory",  # CUDA
)
_AGAIN = "and run the same command again; what was finished is kept"


def shortage_of(error: BaseException) -> str | None:
    """Return one line that says what is short and what to do; ``None`` if the error is no shortage.

    Args:
        error: raised by Python, or by torch, ONNX Runtime or Arrow, which have no common class for it.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()
    if number in _FILES:
        return f"too many open files: raise the limit (`ulimit -n`), or lower --workers, {_AGAIN}"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return f"no thread can start here: raise the limits (`ulimit -u`, `ulimit -v`), or lower --workers, {_AGAIN}"
    is_memory = isinstance(error, MemoryError) or number == errno.ENOMEM
    of_library = isinstance(error, RuntimeError | ImportError) or type(error).__module__.startswith("onnxruntime")
    if is_memory or (of_library and any(words in text for words in _MEMORY_WORDS)):
        return f"out of memory: free some, or lower the batch size and the number of workers, {_AGAIN}"
    return None


def raise_if_short(error: BaseException) -> None:
    """Raise a UserError if this machine is short of something; return if the fault is in what was read.

    A MemoryError alone proves nothing: a damaged file can ask for any amount. It is a shortage if a modest block
    cannot be had either.
    """
    if isinstance(error, MemoryError) and not _memory_is_short():
        return
    line = shortage_of(error)
    if line is not None:
        raise UserError(line) from error


def shortage_behind(error: BaseException) -> str | None:
    """Return the line of ``shortage_of`` for an error, or for one that it followed; ``None`` if there is none.

    A library that is short of memory fails in many ways: an import leaves half a module, a damaged file is reported
    where no byte is damaged. The first error of the chain tells, or that the process was at its limit.
    """
    known = next((line for each in _chain(error) if (line := shortage_of(each)) is not None), None)
    return shortage_of(MemoryError()) if known is None and _was_at_limit() else known


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [before for before in (each.__cause__, each.__context__) if before is not None]


def require_addresses(needed: int, what: str) -> None:
    """Refuse to start what would not fit into the limit of addresses (``ulimit -v``) of this process, if it has one.

    Native libraries start threads and fill tables outside of any call that could report an error: short of memory
    there, they end the process (std::terminate, SIGSEGV) instead of raising.

    Args:
        needed: bytes that it takes at least.
        what: its name for the message.

    Raises:
        UserError: the limit leaves less.
    """
    left = _addresses_left("VmSize")
    if left is not None and left < needed:
        raise UserError(
            f"out of memory: {what} needs {needed >> 20} MB, and the limit of this process (`ulimit -v`) leaves "
            f"{max(0, left) >> 20} MB: raise it, {_AGAIN}"
        )


def _was_at_limit() -> bool:
    left = _addresses_left("VmPeak")
    return left is not None and left < _SPARE


def _addresses_left(field: str) -> int | None:
    """Return the limit of addresses minus a field of ``/proc/self/status``; ``None`` without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return limit - int(value.split()[0]) * 1024
    return None


def _memory_is_short() -> bool:
    try:
        bytearray(_SPARE)
    except MemoryError:
        return True
    return False
