"""May weights be used commercially: what their licence says, and the notice that is printed when they are loaded."""

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
    "facebookresearch/moco": ("MIT", "LICENSE at 132aea9"),
    "facebookresearch/moco-v3": ("CC-BY-NC-4.0", "LICENSE and README.md:189 at c349e6e"),
    "facebookresearch/simsiam": ("CC-BY-NC-4.0", "LICENSE and README.md:96 at a7bc177"),
    "facebookresearch/swav": ("CC-BY-NC-4.0", "LICENSE and README.md:192 at 06b1b7c"),
    "facebookresearch/vicreg": ("MIT", "LICENSE and README.md:114 at 4e12602"),
    "facebookresearch/vissl": ("MIT", "LICENSE and README.md:78 at 09270ed"),
    "google-deepmind/deepmind-research": ("CC-BY-NC-4.0", "byol/README.md:208-212 at f5de0ed, of the weights apart"),
    "google-research/simclr": ("Apache-2.0", "LICENSE at 383d414"),
    "huggingface/pytorch-image-models (timm)": ("Apache-2.0", "timm/models/resnet.py:803 at aa4b585"),
    "neuroailab/LocalAggregation": ("unknown", "no licence file at 87ac593"),
    "zhirongw/lemniscate.pytorch": ("unknown", "no licence file at f7cfe29"),
}
"""Licence of a repository of weights, and where it is stated: file, line and commit. Only DeepMind and timm speak of
weights apart."""
_NOT_IN_REPOSITORIES = frozenset(
    (
        "facebookresearch/moco",
        "facebookresearch/simsiam",
        "facebookresearch/swav",
        "google-deepmind/deepmind-research",
        "google-research/simclr",
        "huggingface/pytorch-image-models (timm)",
    )
)
"""Sources whose models were published before this was written in cards: ``zoo publish`` gives them the same bytes."""
UNKNOWN = "unknown"  # licence of weights whose authors state none
_COPYLEFT = ("GPL-", "AGPL-", "LGPL-")  # how their SPDX names begin
_PERMITTING = (*_COPYLEFT, "Apache-", "MIT", "BSD-", "MPL-", "CC0-", "CC-BY-", "ISC", "Unlicense", "0BSD")

_announced: set[str] = set()


def is_non_commercial(licence: str) -> bool:
    """True for the SPDX name of a Creative Commons non-commercial licence."""
    return "-NC-" in f"{licence.upper()}-"


def permits_commercial_use(licence: str) -> bool | None:
    """True or False by the SPDX name of a licence; ``None`` where none is stated, or it is not known here."""
    if is_non_commercial(licence):
        return False
    return True if licence.startswith(_PERMITTING) else None


def commercial_use(licence: str) -> str:
    """Return in a few words whether a licence permits commercial use."""
    permitted = permits_commercial_use(licence)
    if licence in ("", UNKNOWN):
        return "none is stated, which permits no use: ask the owner"
    if permitted is None:
        return "read whether it permits commercial use"
    if not permitted:
        return "not for commercial use"
    copyleft = ", under its own terms for what is derived" if licence.startswith(_COPYLEFT) else ""
    return f"permits commercial use{copyleft}"


def where_stated(source: str, *, in_repository: bool = False) -> str:
    """Return file, line and commit of the licence of a source of weights; empty where nobody looked it up.

    Args:
        in_repository: for the card of a published repository, which keeps its bytes.
    """
    name = source.partition(",")[0]
    return "" if in_repository and name in _NOT_IN_REPOSITORIES else STATED.get(name, ("", ""))[1]


def announce(name: str, licence: str, source: str) -> None:
    """Print one line to stderr, once per model and process, if the licence forbids commercial use, or there is none.

    A file without a licence whose source nobody has stated is the user's own: nothing is printed.
    """
    is_unlicensed = licence == UNKNOWN and source not in ("", UNKNOWN)
    if (is_non_commercial(licence) or is_unlicensed) and name not in _announced:
        _announced.add(name)
        where = f"; source: {source}" if source else ""
        print_line(f"{name}: licence {licence}, {commercial_use(licence)}{where}", file=sys.stderr)
