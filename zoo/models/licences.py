"""Licences that forbid commercial use, and the notice that is printed when such weights are loaded."""

from __future__ import annotations

import sys

from zoo.system.terminal import print_line

_announced: set[str] = set()


def is_non_commercial(licence: str) -> bool:
    """True for the SPDX name of a Creative Commons non-commercial licence."""
    return "-NC-" in f"{licence.upper()}-"


def announce(name: str, licence: str, source: str) -> None:
    """Print one line to stderr, once per model and process, if the licence forbids commercial use."""
    if is_non_commercial(licence) and name not in _announced:
        _announced.add(name)
        where = f"; source: {source}" if source else ""
        print_line(f"{name}: licence {licence}, not for commercial use{where}", file=sys.stderr)
