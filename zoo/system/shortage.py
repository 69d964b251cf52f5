"""Tell a shortage of this machine (memory, open files, threads) from a fault of the file that was read meanwhile.

A shortage must end a run: recorded as the fault of an image, it would leave a row without a vector in a result that
looks complete, and a run with more memory would never try that image again.
"""

from __future__ import annotations

import errno

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


def _memory_is_short() -> bool:
    try:
        bytearray(_SPARE)
    except MemoryError:
        return True
    return False
