"""facebookresearch/swav's checkpoints (``src/resnet50.py``): flat, with ``projection_head`` and ``prototypes``."""

from __future__ import annotations

from pathlib import Path

from zoo.convert.common import Official, online_only, recognise, sequential, starting_with
from zoo.convert.readers.torch_checkpoint import read_torch, state_dict_of
from zoo.errors import UserError
from zoo.models.registry import SWAV_224

_HEADS = ("projection_head.", "prototypes.")


def official(path: Path, which: str) -> Official:
    """RN50 and its wide variants (every channel 2, 4 or 5 times), with or without heads.

    Of several groups of prototypes (``nmb_prototypes`` a list) the first is kept.

    Raises:
        UserError: unreadable, holds more than tensors, or is no SwAV checkpoint; or ``which`` is ``target``.
    """
    online_only(which, "swav")
    try:
        state = {k.removeprefix("module."): v for k, v in state_dict_of(read_torch(path)).items()}
        architecture, encoder = recognise({k: v for k, v in state.items() if not k.startswith(_HEADS)})
        prototypes = starting_with(state, "prototypes.")
        prototypes = starting_with(prototypes, "prototypes0.") or prototypes
        heads = {"projector": starting_with(state, "projection_head."), "prototypes": prototypes}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path.name} is no SwAV checkpoint of the official code ({error!r})") from None
    return Official("swav", architecture, encoder, {k: sequential(v) for k, v in heads.items() if v}, SWAV_224)
