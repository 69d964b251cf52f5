"""``UserError``, the one exception whose message is written for the user, and the exit codes of the commands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral

EXIT_OK = 0
EXIT_USER_ERROR = 2  # the command, its input or the machine (a full disk) must change first
EXIT_SOME_FAILED = 3  # the run is complete, but some images could not be read
EXIT_INTERRUPTED = 130  # Ctrl-C or SIGTERM; the same command resumes the run

_VARYING = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>|0x[0-9a-fA-F]{6,}|\w+://[^\s'\"]+")
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}:/{1,2}[^\s'\"]*")
_LOGIN = re.compile(r"(:/{1,2})[^/?#@]*@")


def without_secrets(text: str) -> str:
    """Return a text whose URLs have lost login and query: ``https://host/x.tar?...``.

    The query of a presigned URL and a login open what they name to everybody who reads them. They are used, and never
    stored or printed. A query has values: in ``s3://bucket/a?.jpg`` the question mark is a wildcard.
    """
    return _URL.sub(_shown_url, text) if ":/" in text else text


def _shown_url(found: re.Match[str]) -> str:
    place, _, query = found[0].partition("?")
    return _LOGIN.sub(r"\1", place) + (f"?{'...' if '=' in query else query}" if "?" in found[0] else "")


class UserError(Exception):
    """A problem that the user can solve; the message is one line that says what to do.

    Commands print the message after ``error:`` and exit with ``EXIT_USER_ERROR``. Finished output stays on disk. URLs
    in the message lose their secrets.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(without_secrets(part) if isinstance(part, str) else part for part in parts))

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython and Jupyter show in place of the traceback."""
        return [f"{type(self).__name__}: {self}"]


def require_positive(name: str, value: object) -> int:
    """Return a count that a caller of the Python interface gave as ``name``.

    Raises:
        UserError: it is no whole number, or below one.
    """
    if not isinstance(value, Integral) or value < 1:
        raise UserError(f"{name} {value}: give a whole number above zero")
    return int(value)


def reason_of(error: BaseException, most: int = 200) -> str:
    """Return the first line of another library's message, or the class name of an error without a message.

    Memory addresses, objects with an address and URLs are replaced by dots and control characters by spaces, so that
    the same failure gives the same text in every run and on every machine.

    Args:
        most: maximum number of characters.
    """
    line = _VARYING.sub("...", (str(error).strip().splitlines() or [""])[0])
    line = "".join(c if c.isprintable() else " " for c in line)
    return (line.strip() or type(error).__name__)[:most].strip()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question with the closest known name, with a space behind it; nothing where no name is similar."""
    closest = closest_name(name, known, cutoff=0.4)
    return f"did you mean {closest}? " if closest else ""


def closest_name(name: str, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """Return the known name that is most similar to a misspelt one, for error messages.

    Args:
        cutoff: least similarity in 0..1, as ``difflib`` measures it; ``None`` is returned where no name reaches it.
    """
    from difflib import get_close_matches

    by_lower_case = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), by_lower_case, n=1, cutoff=cutoff)
    return by_lower_case[close[0]] if close else None
