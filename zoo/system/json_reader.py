"""Read JSON that another program, or a stranger, may have written, and check its values.

``parse_json`` gives plain values within bounds; the functions below check one value each. All raise ``BadJson``, which
each reader of a kind of file turns into one line for the user. ``json.loads`` alone accepts NaN, infinity as 1e999, a
key that stands twice (the last one wins) and numbers of any length, and raises RecursionError for deep brackets.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Never

from zoo.system.json_types import JSON

MAX_BYTES = 512 * 1024 * 1024
"""Largest file: the manifest of a billion images is smaller, and parsing takes some ten times as much memory."""
MAX_WHOLE = 2**53
"""Largest integer that every reader of JSON keeps exactly."""
_MAX_DEPTH = 32  # nested objects and lists; ours nest 8 deep
_MAX_TEXT = 1000  # characters of a name
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BadJson(ValueError):
    """A file is no JSON of the kind that it should be; the text says why, in a few words."""


def read_json(path: Path, *, nan: bool = False) -> JSON:
    """Read a file with ``parse_json``; its size is looked at first. Raises OSError, too."""
    if path.stat().st_size > MAX_BYTES:
        raise BadJson(f"it is larger than {MAX_BYTES // 2**20} MB")
    return parse_json(path.read_bytes(), nan=nan)


def parse_json(data: bytes | str, *, nan: bool = False) -> JSON:
    """Parse JSON whose objects have each key once, whose numbers are finite and which nests at most 32 deep.

    Args:
        nan: accept NaN, as Python writes it, outside the values that are checked; infinity is refused in any case.
    """
    try:
        value: JSON = json.loads(
            data, object_pairs_hook=_object, parse_constant=_nan if nan else _refuse, parse_float=_finite
        )
    except BadJson:
        raise
    except RecursionError:
        raise BadJson("it nests too deeply") from None
    except ValueError as error:  # syntax, encoding, and integers of more than 4300 digits
        raise BadJson("it is no JSON") from error
    _require_shallow(value)
    return value


def whole(value: object, least: int = 0, most: int = MAX_WHOLE) -> int:
    """Return an integer within an inclusive range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadJson(f"{_shown(value)} is no whole number from {least} to {most}")
    return value


def number(value: object, least: float = -1e9, most: float = 1e9) -> float:
    """Return a number within an inclusive range; NaN is in none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise BadJson(f"{_shown(value)} is no number from {least:g} to {most:g}")
    return value


def text(value: object, most: int = _MAX_TEXT) -> str:
    """Return a text of at most so many characters."""
    if not isinstance(value, str) or len(value) > most:
        raise BadJson(f"{_shown(value)} is no text of at most {most} characters")
    return value


def sha256(value: object) -> str:
    """Return 64 hex digits."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise BadJson(f"{_shown(value)} is no sha256")
    return value


def items(value: object) -> list[JSON]:
    """Return a list."""
    if not isinstance(value, list):
        raise BadJson(f"{_shown(value)} is no list")
    return value


def fields(value: object, *required: str) -> dict[str, JSON]:
    """Return an object that has at least these keys."""
    if not isinstance(value, dict):
        raise BadJson(f"{_shown(value)} is no object")
    if missing := [key for key in required if key not in value]:
        raise BadJson(f"it has no {missing[0]!r}")
    return value


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadJson(f"it has the key {_shown(twice)} twice")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise BadJson(f"{digits[:20]} is no finite number")
    return value


def _nan(name: str) -> float:
    return math.nan if name == "NaN" else _refuse(name)


def _refuse(name: str) -> Never:
    raise BadJson(f"{name} is no finite number")


def _require_shallow(value: JSON) -> None:
    level: list[JSON] = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for entry in level
            if isinstance(entry, dict | list)
            for item in (entry.values() if isinstance(entry, dict) else entry)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise BadJson("it nests too deeply")


def _shown(value: object) -> str:
    shown = f"a {type(value).__name__}" if isinstance(value, dict | list) else ascii(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
