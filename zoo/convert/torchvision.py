"""State dicts with torchvision's, timm's or detectron2's key names, with or without a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.convert.candidates import find, joined
from zoo.convert.common import OfficialCheckpoint, body_of, recognise, sequential, starting_with, unread_weights
from zoo.convert.readers.torch_checkpoint import read_torch, state_dict_of
from zoo.errors import UserError, reason_of
from zoo.models.key_mapping import to_torchvision


def read_official(path: Path, prefix: str | None) -> OfficialCheckpoint:
    """Read a ResNet from a torch or safetensors file; ``fc`` becomes the classifier, or with several
    layers the projector.

    Args:
        prefix: text before ``conv1.weight`` in the keys (``module.pre.``); ``None`` takes the only one that fits.

    Raises:
        UserError: the file cannot be read, has no ResNet under the prefix, or has several and no prefix is given.
    """
    file = read_torch(path)
    state = state_dict_of(file.content)
    # Find the part of the file that holds the network.
    if prefix is None:
        prefix = _only_prefix(state, file.content, path)
        _require_no_other(file.content, path)
    under = starting_with(state, prefix)
    named = to_torchvision(under)
    if named is None:
        raise UserError(f"{path.name} has no ResNet under {prefix!r}: {_hint(state, file.content)}")
    # Separate the classifier from the body.
    classifier = starting_with(named, "fc.")
    try:
        body = body_of(named)
        architecture, encoder = recognise(body)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{path.name} holds no ResNet of this family under {prefix!r} ({reason_of(error)})"
        raise UserError(reason + unread_weights(file.dropped)) from None
    # Tell the user which tensors stay behind.
    outside = (k for k in state if not k.startswith(prefix))
    left_out = (*outside, *(prefix + k for k in named if k not in body and not k.startswith("fc.")))
    heads = {}
    if classifier:  # a single linear layer; SimSiam's and SimCLR's layouts have a projector there
        fc = sequential(classifier)
        heads = {"classifier" if set(fc) <= {"0.weight", "0.bias"} else "projector": fc}
    return OfficialCheckpoint("unknown", architecture, encoder, heads, left_out=left_out, dropped=file.dropped)


# Key of the stem, and of the first block's convolution: a block has a conv1 too, so the stem alone is not enough.
_MARKS = (
    ("conv1.weight", "layer1.0.conv1.weight"),
    ("stem.conv.weight", "stages.0.blocks.0.conv1.weight"),
    ("stem.conv1.weight", "res2.0.conv1.weight"),
)


def _prefixes(state: dict[str, Tensor]) -> list[str]:
    """Return the prefixes under which a state dict holds ResNets."""
    found = ((key.removesuffix(stem), block) for key in state for stem, block in _MARKS if key.endswith(stem))
    return sorted({prefix for prefix, block in found if prefix + block in state})


def _only_prefix(state: dict[str, Tensor], content: Mapping[object, object], path: Path) -> str:
    found = _prefixes(state)
    if len(found) != 1:
        raise UserError(f"{path.name}: which network is meant? {_hint(state, content)}")
    return found[0]


def _require_no_other(content: Mapping[object, object], path: Path) -> None:
    """Raise UserError where another dict of the file has a network too, such as timm's ``state_dict_ema``."""
    if len(found := find(joined(content))) > 1:
        listed = ", ".join(map(str, found[:10]))
        raise UserError(f"{path.name} holds {len(found)} networks: choose one by --from auto --prefix: {listed}")


def _hint(state: dict[str, Tensor], content: Mapping[object, object]) -> str:
    found = _prefixes(state)
    if found:
        return "give --prefix " + " or ".join(repr(p) for p in found)
    if elsewhere := find(joined(content)):  # in a dict of another name than the usual ones
        return f"--from auto finds one under {elsewhere[0].prefix!r}"
    first = ", ".join(list(state)[:3]) or "none"
    return f"its keys ({first}, ...) are not torchvision's, timm's or detectron2's"
