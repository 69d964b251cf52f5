"""facebookresearch/swav's checkpoints (``src/resnet50.py``): flat keys, with ``projection_head`` and ``prototypes``.

The repository's DeepCluster v2 and SeLa v2 have the same layout with several groups of prototypes.
"""

from __future__ import annotations

from pathlib import Path

from zoo.convert.common import (
    OfficialCheckpoint,
    not_official,
    recognise,
    require_online,
    sequential,
    starting_with,
    unwrapped,
)
from zoo.convert.readers.torch_checkpoint import read_torch, state_dict_of
from zoo.models.registry import SWAV_224

_HEADS = ("projection_head.", "prototypes.")


def read_official(path: Path, which: str) -> OfficialCheckpoint:
    """Read a ResNet-50 or one of its wide variants (all channels times 2, 4 or 5), with or without heads.

    The first of several groups of prototypes (``nmb_prototypes`` is a list) is kept; the others are left out.

    Raises:
        UserError: the file cannot be read, is no SwAV checkpoint, or ``which`` is ``target``.
    """
    require_online(which, "swav")
    file = read_torch(path)
    try:
        # Separate the encoder from the heads.
        state = unwrapped(state_dict_of(file.content))
        if more := [k for k in state if not k.startswith((*_HEADS, "conv1.", "bn1.", "layer"))]:
            raise ValueError(f"which writes no {more[0]}")
        architecture, encoder = recognise({k: v for k, v in state.items() if not k.startswith(_HEADS)})
        # Of several groups of prototypes, keep the first.
        prototypes = starting_with(state, "prototypes.")
        prototypes = starting_with(prototypes, "prototypes0.") or prototypes
        heads = {"projector": starting_with(state, "projection_head."), "prototypes": prototypes}
        groups = (k for k in state if k.startswith("prototypes.prototypes"))
        left_out = tuple(k for k in groups if not k.startswith("prototypes.prototypes0."))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise not_official(path, "SwAV", error, file.dropped) from None
    # Give the heads the layout of a plain sequence, and leave out empty ones.
    heads = {k: sequential(v) for k, v in heads.items() if v}
    return OfficialCheckpoint("swav", architecture, encoder, heads, SWAV_224, left_out, file.dropped)
