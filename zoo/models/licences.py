"""Licences that forbid commercial use, and the notice that is printed when such weights are loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from zoo.system.terminal import print_line

STATED: Mapping[str, tuple[str, str]] = {
    "HobbitLong/CMC": ("BSD-2-Clause", "LICENSE at 7b227be"),
    "HobbitLong/PyContrast": ("BSD-2-Clause", "pycontrast/LICENSE at 84f94ea"),
    "WXinlong/DenseCL": ("GPL-3.0", "LICENSE at b64bbb6"),
    "facebookresearch/barlowtwins": ("MIT", "LICENSE and README.md:95 at 8e8d284"),
    "facebookresearch/dino": ("Apache-2.0", "LICENSE and README.md:400 at 7c446df"),
    "facebookresearch/moco-v3": ("CC-BY-NC-4.0", "LICENSE and README.md:189 at c349e6e"),
    "facebookresearch/vicreg": ("MIT", "LICENSE and README.md:114 at 4e12602"),
    "facebookresearch/vissl": ("MIT", "LICENSE and README.md:78 at 09270ed"),
    "zhirongw/lemniscate.pytorch": ("unknown", "no licence file at f7cfe29"),
}
"""Licence of a repository of weights, and where it is stated: file, line and commit. None speaks of weights apart."""

_announced: set[str] = set()


def is_non_commercial(licence: str) -> bool:
    """True for the SPDX name of a Creative Commons non-commercial licence."""
    return "-NC-" in f"{licence.upper()}-"


def where_stated(source: str) -> str:
    """Return file, line and commit of the licence of a source of weights; empty where nobody looked it up."""
    return STATED.get(source.partition(",")[0], ("", ""))[1]


def announce(name: str, licence: str, source: str) -> None:
    """Print one line to stderr, once per model and process, if the licence forbids commercial use."""
    if is_non_commercial(licence) and name not in _announced:
        _announced.add(name)
        where = f"; source: {source}" if source else ""
        print_line(f"{name}: licence {licence}, not for commercial use{where}", file=sys.stderr)
