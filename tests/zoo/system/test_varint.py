"""Numbers of variable length: those of the documentation, and bytes that are none."""

from __future__ import annotations

import pytest

from zoo.system.varint import read_varint


@pytest.mark.parametrize(
    ("data", "number"),
    [(b"\x00", 0), (b"\x01", 1), (b"\x96\x01", 150), (b"\xac\x02", 300), (b"\xff" * 9 + b"\x01", 2**64 - 1)],
)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_numbers_and_where_they_end(kind: type, data: bytes, number: int) -> None:
    """reference: protobuf.dev/programming-guides/encoding has 1, 150 and the ten bytes of -1."""
    assert read_varint(kind(b"x" + data + b"y"), 1, "its index") == (number, 1 + len(data))


def test_bytes_that_are_no_number() -> None:
    with pytest.raises(IndexError):
        read_varint(b"\xff\xff", 0, "its index")
    with pytest.raises(ValueError, match="a number in its index is too long"):
        read_varint(b"\xff" * 20, 0, "its index")
