"""Find an unclosed quotation mark in a CSV or TSV, which hides the rows after it.

A quoted value ends at the next quotation mark, even on a later line. If a value has only the first one
(``a.jpg<TAB>"Hello``), the CSV reader treats the following rows as part of that value, and reports no error.
"""

from __future__ import annotations

from zoo.errors import UserError
from zoo.transforms.formats import EXTENSIONS

_ENDINGS = tuple(extension.encode() for extension in EXTENSIONS)


class QuoteWatch:
    """Checks the quotation marks of a table's rows while a CSV reader reads them.

    Args:
        columns: number of columns.
        path_at: number of the column of paths.
        delimiter: between two values.
    """

    def __init__(self, columns: int, path_at: int, delimiter: str) -> None:
        self._columns, self._path_at, self._delimiter = columns, path_at, delimiter.encode()
        self._rest = b""
        self._number = 1  # of the last whole line; the header is the first
        self._opened = 0  # the line in which the value began that is not closed yet
        self._taken = 0  # the first line whose quotation mark took in a row

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the file."""
        self._rest += data
        # Most tables have no quotation mark.
        if not self._opened and b'"' not in self._rest:
            self._number += self._rest.count(b"\n")
            self._rest = self._rest[self._rest.rfind(b"\n") + 1 :]
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._line(line)

    def require_closed(self, shown: str) -> None:
        """Check the whole table, once all of it was fed.

        Raises:
            UserError: a quotation mark took in rows, or is not closed.
        """
        if self._rest:
            self._line(self._rest)
        if line := self._taken or self._opened:
            raise UserError(
                f"{shown}: a quotation mark in line {line} takes in the lines behind it, which would be lost: write "
                'values that hold one as "...""..."'
            )

    def _line(self, line: bytes) -> None:
        self._number += 1
        if self._opened and not self._taken and self._is_row(line):
            self._taken = self._opened
        if self._opened or b'"' in line:
            is_open = self._is_open_after(line)
            self._opened = (self._opened or self._number) if is_open else 0

    def _is_row(self, line: bytes) -> bool:
        values = line.rstrip(b"\r").split(self._delimiter)
        return len(values) == self._columns and values[self._path_at].strip(b'"').lower().endswith(_ENDINGS)

    def _is_open_after(self, line: bytes) -> bool:
        at, is_open = 0, bool(self._opened)
        while True:
            if not is_open:  # at the beginning of a value
                is_open = line.startswith(b'"', at)
                at += is_open
            if is_open:
                end = line.find(b'"', at)
                if end < 0:
                    return True
                if line.startswith(b'"', end + 1):  # two are one inside of the value
                    at = end + 2
                    continue
                at, is_open = end + 1, False
            following = line.find(self._delimiter, at)
            if following < 0:
                return False
            at = following + 1
