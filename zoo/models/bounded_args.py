"""Check the arguments of a network that a file states: their names and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.errors import UserError
from zoo.models.backbones import MAX_IMAGE_SIZE
from zoo.models.registry import RESNETS
from zoo.transforms.preprocess import MODES

MAX_WIDTH, MAX_BLOCKS = 16, 64  # of all channels, and in one stage; timm builds them in two seconds
_NORMS = ("groupnorm", "groupnorm1")  # other than BN


def require_bounded_args(timm_name: str, model_args: Mapping[str, Any], colours: str = "") -> None:
    """Raise UserError unless a file's arguments of a network are known and within limits; timm takes them as they are.

    What the name and the arguments then build is compared with the file's tensors, without memory, before it is used.
    """
    unknown = dict(model_args)
    limits = {"in_chans": max(MODES)}
    is_v2 = timm_name.startswith("resnetv2")
    if timm_name in RESNETS and not is_v2:
        limits |= {"stem_width": 64 * MAX_WIDTH, "cardinality": 1024, "base_width": 1024}
        for name, most in (("layers", MAX_BLOCKS), ("channels", 64 * 8 * MAX_WIDTH)):
            if name in unknown and not _are_four(unknown.pop(name), most):
                raise UserError("model_args are out of range")
    for name, most in limits.items():
        if name in unknown and not (type(value := unknown.pop(name)) is int and 0 < value <= most):
            raise UserError("model_args are out of range")
    if timm_name == "resnetv2_18" or (timm_name == "resnetv2_50" and "preact" in unknown):
        layers, width = unknown.pop("layers", [3, 4, 6, 3]), unknown.pop("width_factor", 1)
        preact = unknown.pop("preact", False) if timm_name == "resnetv2_50" else False
        if preact is not False or not _is_size(width, layers):
            raise UserError("model_args are out of range")
    elif colours:
        if timm_name not in RESNETS or not _is_doubling(model_args.get("channels", [64, 128, 256, 512])):
            raise UserError("model_args are out of range")
    elif timm_name not in RESNETS:
        side, dynamic = unknown.pop("img_size", 1), unknown.pop("dynamic_img_size", True)
        if type(side) is not int or not 0 < side <= MAX_IMAGE_SIZE or dynamic is not True:
            raise UserError("model_args are out of range")
    if timm_name in RESNETS and not is_v2 and unknown.pop("norm_layer", "groupnorm") not in _NORMS:
        raise UserError(f"norm_layer {str(model_args['norm_layer'])[:60]!r} is not known to this version")
    if unknown:
        raise UserError(f"model_args {sorted(unknown)} are not known to this version")


def _is_size(width: Any, layers: Any) -> bool:
    """True for a width and four numbers of blocks within the limits of ``zoo convert``; timm takes them as they are."""
    if type(width) not in (int, float) or not 0 < width <= MAX_WIDTH:
        return False
    return _are_four(layers, MAX_BLOCKS)


def _are_four(numbers: Any, most: int) -> bool:
    return isinstance(numbers, list) and len(numbers) == 4 and all(type(n) is int and 0 < n <= most for n in numbers)


def _is_doubling(channels: Any) -> bool:
    """True for the channels of four stages, each twice the one before, as in CMC's networks of other widths."""
    if not isinstance(channels, list) or not channels or type(channels[0]) is not int:
        return False
    return 0 < channels[0] <= 64 * MAX_WIDTH and channels == [channels[0] << n for n in range(4)]
