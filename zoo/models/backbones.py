"""Any network of timm that gives pooled features, beside the ResNets of the registry.

Nothing is listed here: timm knows its networks. A network is run once without memory (torch's ``meta`` device), which
tells the length of its embedding and whether it takes images of a size. A vision transformer has one position
embedding for each patch, so its image size is an argument of the network (``img_size``); with ``dynamic_img_size`` it
takes other sizes too, by interpolation.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError, reason_of
from zoo.models.registry import ARCHITECTURES, Architecture, ModelArgs

if TYPE_CHECKING:
    from torch import nn

MAX_IMAGE_SIZE = 4096
# what timm's constructors and forward passes raise for arguments and sizes that they do not take
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@cache
def find_backbone(name: str, sizes: tuple[int, ...]) -> Architecture:
    """Return the architecture of a timm name, for square images of ``sizes`` pixels; the first is its own size.

    Raises:
        UserError: timm has no such network, or it gives no pooled features of these images.
    """
    import timm
    import torch

    require_known(name)
    config = timm.get_pretrained_cfg(name)
    sized: list[ModelArgs] = [{"img_size": sizes[0], "dynamic_img_size": True}, {"img_size": sizes[0]}]
    is_fixed = config is not None and config.fixed_input_size
    reasons = []
    for args in [*sized, ModelArgs()] if is_fixed else [ModelArgs(), *sized]:
        try:
            with torch.device("meta"):
                module: nn.Module = timm.create_model(name, num_classes=0, **args).eval()
                _require_whole_patches(module, sizes)
                found = [module(torch.empty(2, 3, side, side)) for side in sizes]
        except _REFUSALS as error:
            reasons.append(reason_of(error))
            continue
        features = embedding_size(module)
        if any(getattr(value, "shape", None) != (2, features) for value in found):
            raise UserError(f"architecture {name!r} gives no pooled features, one vector an image: choose another")
        return Architecture(name, features, sum(p.numel() for p in module.parameters()), args)
    raise UserError(
        f"architecture {name!r} does not take images of {' and '.join(map(str, sizes))} pixels "
        f"({reasons[0][:160]}): set views.size"
    )


def create(architecture: Architecture) -> nn.Module:
    """Build a network of ``find_backbone``, with timm's own initialisation.

    Raises:
        UserError: timm has no such network, or does not take its arguments; they may come from a file.
    """
    require_known(architecture.timm_name)
    return create_by_timm(architecture.timm_name, architecture.model_args)


def create_by_timm(name: str, args: Mapping[str, Any], **more: Any) -> nn.Module:
    """Call ``timm.create_model`` for a network without weights and without a classifier.

    Args:
        args: arguments that may come from a file.
        more: further arguments, of our own.

    Raises:
        UserError: timm does not take the arguments.
    """
    import timm

    try:
        module: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **args, **more)
    except _REFUSALS as error:
        raise UserError(f"timm cannot build {name} with {dict(args)} ({reason_of(error)[:160]})") from None
    return module


def require_takes(module: nn.Module, channels: int, side: int, what: str) -> None:
    """Run a network that was built without memory on an image of its preprocessing; the sizes may come from a file.

    Raises:
        UserError: it does not take such an image.
    """
    import torch

    try:
        with torch.device("meta"):
            _require_whole_patches(module, (side,))
            module(torch.empty(1, channels, side, side))
    except _REFUSALS as error:
        raise UserError(
            f"{what} states images of {channels} channels and {side} pixels, which its network does not take "
            f"({reason_of(error)[:160]})"
        ) from None


def embedding_size(module: nn.Module) -> int:
    """Return the length of a network's output without a classifier.

    timm's ``head_hidden_size``; it differs from ``num_features`` where layers follow the pool, as in MobileNetV3.
    """
    return int(getattr(module, "head_hidden_size", None) or module.num_features)  # type: ignore[arg-type]


def has_stages(module: nn.Module) -> bool:
    """True for networks with the four stages of a ResNet, ``layer1`` ... ``layer4``, whose maps are [N, C, H, W]."""
    from timm.models.resnetv2 import ResNetV2

    return hasattr(module, "layer4") or isinstance(module, ResNetV2)


def stage_parts(module: nn.Module, name: str, what: str) -> tuple[nn.Module, ...]:
    """Return the module of a stage, or those of both halves of a network of split colours.

    Args:
        name: ``layer1`` ... ``layer4``, which timm's ``resnetv2_50`` calls ``stages.0`` ... ``stages.3``.
        what: what needs the stage, for messages.

    Raises:
        UserError: the network, or a half of it, has no such stages.
    """
    from zoo.models.colour_split import SplitEncoder

    networks = module.halves if isinstance(module, SplitEncoder) else (module,)
    for network in networks:
        require_stages(network, what)
    nested = f"stages.{int(name.removeprefix('layer')) - 1}"
    return tuple(network.get_submodule(name if hasattr(network, name) else nested) for network in networks)


def require_stages(module: nn.Module, what: str) -> None:
    """Raise UserError unless a network has the four stages of a ResNet; ``what`` needs them."""
    if not has_stages(module):
        raise UserError(f"{what} needs the four stages of a ResNet, which {type(module).__name__} does not have")


def recompute_activations(module: nn.Module, name: str) -> None:
    """Make a network recompute its activations in the backward pass.

    Raises:
        UserError: the network cannot do that.
    """
    switch = getattr(module, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise AssertionError
        switch()
    except AssertionError:  # timm's answer where a network has no checkpointing
        raise UserError(f"{name} cannot recompute its activations: set checkpoint_activations=false") from None


def require_known(name: str) -> None:
    """Raise UserError with close names unless timm has a network of this name."""
    import timm

    base, _, tag = name.partition(".")
    if timm.is_model(name) and not tag and name == base:
        return
    if tag and timm.is_model(base):
        raise UserError(
            f"architecture {name!r}: leave out the tag .{tag}, which names weights; training starts from random ones, "
            "or from those of --init"
        )
    close = _close_names(name, [*ARCHITECTURES, *timm.list_models()])
    hint = f"did you mean {', '.join(close)}?" if close else f"one of {', '.join(ARCHITECTURES)}, or a name of timm"
    raise UserError(f"unknown architecture {name[:100]!r}: {hint}")


def _close_names(name: str, known: list[str]) -> list[str]:
    """Return up to four names: spelt alike, else the shortest that begin with ``name``, else the nearest ones."""
    alike = difflib.get_close_matches(name, known, n=4, cutoff=0.8)
    longer = sorted((other for other in known if other.startswith(name)), key=len)[:4]
    return alike or longer or difflib.get_close_matches(name, known, n=4, cutoff=0.5)


def _require_whole_patches(module: nn.Module, sizes: tuple[int, ...]) -> None:
    """Raise ValueError where patches do not cover an image: without this, timm would leave pixels at its edge out."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and (uneven := [side for side in sizes if any(side % part for part in patch)]):
        raise ValueError(f"{uneven[0]} is no multiple of its patch of {patch[0]} pixels")
