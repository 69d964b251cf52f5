"""Numbers of variable length (LEB128), as protocol buffers and Thrift's compact protocol write them."""

from __future__ import annotations

_MOST_BITS = 70  # a number of 64 bits takes at most ten bytes, and each byte holds seven bits


def read_varint(data: bytes | memoryview, position: int, where: str) -> tuple[int, int]:
    """Return the unsigned number at ``position``, and the position after it.

    Args:
        where: what holds the number, such as ``its index``, for the message.

    Raises:
        ValueError: it is longer than ten bytes.
        IndexError: the bytes end too early.
    """
    value = 0
    for shift in range(0, _MOST_BITS, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number in {where} is too long")
