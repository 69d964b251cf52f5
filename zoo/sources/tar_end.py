"""Whether a tar file was read to its end.

Python's ``tarfile`` takes a damaged header, and the zeros between two archives that were joined with ``cat``, for the
end of the archive: the members behind it would be lost without a word.
"""

from __future__ import annotations

from tarfile import BLOCKSIZE, ENCODING, HeaderError, ReadError, TarInfo
from typing import BinaryIO

from zoo.errors import UserError

_LOOKED_THROUGH = 1 << 20  # bytes behind the end: zeros up to a record's end, GNU tar's record has 10 240 bytes
_ZEROS = bytes(BLOCKSIZE)


def require_end(file: BinaryIO, offset: int) -> bool:
    """Check that an archive ends at byte ``offset``, where no further header could be read.

    Returns:
        False where the file simply ends there. Some programs write no blocks of zeros, so it may be whole; or it was
        cut off behind a member.

    Raises:
        ReadError: a damaged or incomplete header is there.
        UserError: another archive follows the end.
    """
    file.seek(offset)
    rest = file.read(_LOOKED_THROUGH)
    if rest[:BLOCKSIZE].strip(b"\0"):
        raise ReadError(f"the header at byte {offset} is damaged")
    # Find the first block that is not zero.
    first = len(rest) - len(rest.lstrip(b"\0"))
    block = rest[first // BLOCKSIZE * BLOCKSIZE :][:BLOCKSIZE]
    try:
        TarInfo.frombuf(block, ENCODING, "surrogateescape")
    except HeaderError:  # zeros, or bytes that are no archive
        return bool(rest)
    place = offset + first // BLOCKSIZE * BLOCKSIZE
    raise UserError(
        f"another tar file follows at byte {place}, as `cat` joins them, and would be left out: give the files "
        "one by one, or unpack it with `tar --ignore-zeros` and pack it again"
    )
