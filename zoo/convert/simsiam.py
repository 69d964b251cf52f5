"""facebookresearch/simsiam's checkpoints (``simsiam/builder.py``): ``encoder.fc`` is the projector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from zoo.convert.common import (
    OfficialCheckpoint,
    not_official,
    recognise,
    require_online,
    sequential,
    starting_with,
    unwrapped,
)
from zoo.convert.readers.torch_checkpoint import read_torch
from zoo.models.registry import FAIR_224, Architecture


@dataclass(frozen=True)
class SimSiamCheckpoint:
    """An official SimSiam file: state dicts in the names of ``architecture`` and of ``zoo.models.heads``."""

    architecture: Architecture
    encoder: dict[str, Tensor]
    projector: dict[str, Tensor]
    predictor: dict[str, Tensor]
    left_out: tuple[str, ...]
    dropped: Mapping[str, str]


def read(path: Path) -> SimSiamCheckpoint:
    """Read a ``.pth.tar`` of the official code, of any depth and width.

    Raises:
        UserError: the file cannot be read, or is no SimSiam checkpoint.
    """
    file = read_torch(path)
    try:
        state = unwrapped(file.content["state_dict"])
        encoder = starting_with(state, "encoder.")
        projector, predictor = starting_with(encoder, "fc."), starting_with(state, "predictor.")
        architecture, encoder = recognise({k: v for k, v in encoder.items() if not k.startswith("fc.")})
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise not_official(path, "SimSiam", error, file.dropped) from None
    left_out = tuple(key for key in state if not key.startswith(("encoder.", "predictor.")))
    return SimSiamCheckpoint(architecture, encoder, projector, predictor, left_out, file.dropped)


def read_official(path: Path, which: str) -> OfficialCheckpoint:
    """Read the file for ``zoo convert``; SimSiam has one network.

    Raises:
        UserError: as ``read``, or ``which`` is ``target``.
    """
    require_online(which, "simsiam")
    file = read(path)
    heads = {name: sequential(v) for name, v in (("projector", file.projector), ("predictor", file.predictor)) if v}
    return OfficialCheckpoint("simsiam", file.architecture, file.encoder, heads, FAIR_224, file.left_out, file.dropped)
