"""facebookresearch/moco's checkpoints (``moco/builder.py``): ``encoder_q`` is trained, ``encoder_k`` is its average."""

from __future__ import annotations

from pathlib import Path

from zoo.convert.common import (
    OfficialCheckpoint,
    not_official,
    one_of_two,
    recognise,
    sequential,
    starting_with,
    unwrapped,
)
from zoo.convert.readers.torch_checkpoint import read_torch
from zoo.errors import UserError
from zoo.models.registry import FAIR_224

_NETWORKS = {"online": "encoder_q.", "target": "encoder_k."}
_NAMES = {"online": "query encoder", "target": "key encoder, its moving average"}


def read_official(path: Path, which: str) -> OfficialCheckpoint:
    """Read MoCo v1 (``fc`` is one Linear) or v2 (two with a ReLU between them); the queue is left out.

    Args:
        which: ``online`` is the query encoder. ``target`` is the key encoder, which the published files lack.

    Raises:
        UserError: the file cannot be read, is no MoCo checkpoint, or has no key encoder.
    """
    file = read_torch(path)
    try:
        state = unwrapped(file.content["state_dict"])
        network = starting_with(state, _NETWORKS[which])
        if not network and starting_with(state, "encoder_q."):
            raise UserError(f"{path.name} holds no {_NETWORKS[which]}*: the published files have --which online only")
        architecture, encoder = recognise({k: v for k, v in network.items() if not k.startswith("fc.")})
        projector = sequential(starting_with(network, "fc."))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise not_official(path, "MoCo", error, file.dropped) from None
    heads = {"projector": projector} if projector else {}
    other = {"online": "target", "target": "online"}[which]
    has_both = any(key.startswith(_NETWORKS[other]) for key in state)
    found = one_of_two(_NAMES[which], which, _NAMES[other]) if has_both else ""
    left_out = tuple(key for key in state if not key.startswith(_NETWORKS[which]))
    return OfficialCheckpoint("moco", architecture, encoder, heads, FAIR_224, left_out, file.dropped, found)
