"""What a licence forbids, said once where weights are loaded."""

from __future__ import annotations

import sys

_said: set[str] = set()


def is_non_commercial(licence: str) -> bool:
    """Whether an SPDX name is one of Creative Commons' non-commercial licences."""
    return "-NC-" in f"{licence.upper()}-"


def announce(name: str, licence: str, source: str) -> None:
    """One line on stderr for each model and process, where the licence allows no commercial use."""
    if is_non_commercial(licence) and name not in _said:
        _said.add(name)
        where = f"; source: {source}" if source else ""
        print(f"{name}: licence {licence}, not for commercial use{where}", file=sys.stderr)
