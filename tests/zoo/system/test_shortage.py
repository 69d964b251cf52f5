from __future__ import annotations

import errno

import pytest

from zoo.errors import UserError
from zoo.system import shortage
from zoo.system.shortage import raise_if_short, shortage_of


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENFILE, "Too many open files in system"), "ulimit -n"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_a_shortage_is_one_line_that_says_what_is_short(error: Exception, words: str) -> None:
    line = shortage_of(error)
    assert line is not None
    assert words in line
    assert "\n" not in line
    assert "run the same command again" in line


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no such file", "out of memory.jpg"),
        RuntimeError("size mismatch"),
        ImportError("No module named 'x'"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert shortage_of(error) is None
    raise_if_short(error)


def test_a_damaged_file_that_asks_for_too_much_is_no_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_if_short(MemoryError())  # there is memory for a small image
    monkeypatch.setattr(shortage, "_SPARE", 1 << 62)
    with pytest.raises(UserError, match="out of memory"):
        raise_if_short(MemoryError())


def test_arrow_and_onnxruntime_are_recognised() -> None:
    import pyarrow as pa
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    assert shortage_of(pa.ArrowMemoryError("malloc of size 1280 failed")) is not None
    assert shortage_of(RuntimeException("Exception during initialization: std::bad_alloc")) is not None
