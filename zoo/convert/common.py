"""The common result of all converters, and the detection of an encoder's depth, width and stem from its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from zoo.errors import UserError, reason_of
from zoo.models.bounded_args import MAX_BLOCKS, MAX_WIDTH
from zoo.models.key_mapping import torchvision_to_resnetv2
from zoo.models.registry import IMAGENET_224, Architecture, ModelArgs
from zoo.models.state_dict import without_counters
from zoo.transforms.preprocess import MODES, Preprocessing

V = TypeVar("V")

_OTHER = {"online": "target", "target": "online"}
_BASIC: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}
_BOTTLENECK: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
    (3, 24, 36, 3): "resnet200",
}
_WIDE: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "wide_resnet50_2", (3, 4, 23, 3): "wide_resnet101_2"}
_BLOCK = re.compile(r"layer([1-4])\.(\d{1,3})\.")
_WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MORE_STEM = re.compile(r"(?:conv|bn)(?:0|[2-9]|1\d)\.")
_LEARNED_POOL = re.compile(r"(?:max|avg|attn|global_)?pool(?:ing)?\d?\.|gem\.")
_MODULE = re.compile(r"(?:(?<=^)|(?<=\.))module\.")
_DATA_PARALLEL = re.compile(r"^(?:module\.)+")


@dataclass(frozen=True)
class OfficialCheckpoint:
    """One network of an official file.

    Attributes:
        method: ``byol``, ``simsiam``, ``simclr``, ``moco``, ``swav`` or ``unknown``.
        encoder: state dict in the names of ``architecture``, float32 as in the file.
        heads: state dicts of ``nn.Sequential`` by part, see ``zoo.models.head_spec``.
        preprocessing: transform that the official code evaluates with.
        left_out: keys of the file that belong to neither.
        dropped: class of each object of the file that was not read, by its place.
        found: what was found and where, or which of two networks was taken, for the user; empty where the kind of file
            says it.
        evaluated: False if the file has another network, and its authors evaluate and publish that one.
    """

    method: str
    architecture: Architecture
    encoder: Mapping[str, Tensor]
    heads: Mapping[str, Mapping[str, Tensor]]
    preprocessing: Preprocessing = IMAGENET_224
    left_out: tuple[str, ...] = field(default=())
    dropped: Mapping[str, str] = field(default_factory=dict)
    found: str = ""
    evaluated: bool = True


def recognise(state: Mapping[str, Tensor], *, padding: str = "symmetric") -> tuple[Architecture, dict[str, Tensor]]:
    """Detect the architecture of a state dict with torchvision's names.

    A network of width 1 and a usual depth becomes timm's ``resnet18`` ... ``resnet200``, which use torchvision's names.
    One with every channel multiplied becomes timm's ``resnetv2_50(preact=False)`` with layers and a width. Every other
    one (ResNeXt, own depths and channels) becomes ``resnet18`` or ``resnet50`` with arguments of timm's ``ResNet``.

    Returns:
        The architecture, and the state dict in its names without ``num_batches_tracked``.

    Raises:
        KeyError, ValueError: the state dict is no ResNet of this family.
    """
    encoder = without_counters(state)
    # depth: the blocks of each stage
    blocks = {(int(m[1]), int(m[2])) for m in map(_BLOCK.match, encoder) if m}
    layers = tuple(sum(1 for g, _ in blocks if g == stage) for stage in range(1, 5))
    if not 0 < min(layers) <= max(layers) <= MAX_BLOCKS:
        raise ValueError(f"stages of {layers} blocks")
    # width and kind of block
    channels, images, kernel, _ = encoder["conv1.weight"].shape
    if not 0 < channels <= 64 * MAX_WIDTH:
        raise ValueError(f"a stem of {channels} channels")
    if images not in MODES:
        raise ValueError(f"a network of {images} input channels; images have {', '.join(map(str, MODES))}")
    parameters = sum(v.numel() for k, v in encoder.items() if "running" not in k)
    last = "bn2" if (is_basic := "layer1.0.conv3.weight" not in encoder) else "bn3"
    (features,) = encoder[f"layer4.{layers[3] - 1}.{last}.weight"].shape
    _require_plain_blocks(encoder)
    # timm's name, and its arguments where the name alone does not say it
    timm_name = (_BASIC if is_basic else _BOTTLENECK).get(layers) if channels == 64 else None
    widths, inner = _widths(encoder, layers, last), encoder["layer1.0.conv1.weight"].shape[0]
    args: ModelArgs = {}
    is_scaled = inner == channels and widths == [channels * 2**n for n in range(4)] and _groups(encoder) == 1
    if not is_basic and channels == 64 and inner == 128 and layers in _WIDE and _groups(encoder) == 1:
        timm_name = _WIDE[layers]  # torchvision's and timm's: only the inner convolutions are wide
    elif not is_scaled or (is_basic and timm_name is None):
        timm_name = "resnet18" if is_basic else "resnet50"
        args = _resnet_args(encoder, layers, widths, channels)
    elif timm_name is None:
        width = channels / 64  # the stem of the 1x network has 64 channels
        args = {"preact": False, "width_factor": int(width) if width == int(width) else width}
        if layers != (3, 4, 6, 3):  # timm's default for this name
            args["layers"] = list(layers)
        encoder = torchvision_to_resnetv2(encoder)
    if images != 3:
        args["in_chans"] = images
    architecture = Architecture(
        timm_name or "resnetv2_50",
        features,
        parameters,
        args,
        padding=padding,
        stem="cifar" if kernel == 3 else "imagenet",
        project_first=is_basic and "layer1.0.downsample.0.weight" in state and channels == widths[0],
    )
    return architecture, encoder


def _widths(encoder: Mapping[str, Tensor], layers: tuple[int, ...], last: str) -> list[int]:
    """Return the channels of each stage as timm's ``ResNet`` counts them: a bottleneck gives four times as many."""
    expansion = 4 if last == "bn3" else 1
    found = [encoder[f"layer{n}.{count - 1}.{last}.weight"].shape[0] for n, count in enumerate(layers, start=1)]
    if any(width % expansion for width in found):
        raise ValueError(f"stages of {found} channels, which are no multiples of {expansion}")
    return [width // expansion for width in found]


def _groups(encoder: Mapping[str, Tensor]) -> int:
    """Return the groups of the first block's 3x3 convolution: more than one in a ResNeXt."""
    if "layer1.0.conv3.weight" not in encoder:
        return 1
    inner, inputs = int(encoder["layer1.0.conv1.weight"].shape[0]), int(encoder["layer1.0.conv2.weight"].shape[1])
    if inner % inputs:
        raise ValueError(f"a 3x3 convolution of {inputs} inputs after {inner} channels")
    return inner // inputs


def _resnet_args(encoder: Mapping[str, Tensor], layers: tuple[int, ...], widths: list[int], stem: int) -> ModelArgs:
    """Return the arguments of timm's ``ResNet``; those that its 18 or 50 layers have by default are left out."""
    is_basic = "layer1.0.conv3.weight" not in encoder
    args: ModelArgs = {}
    if layers != ((2, 2, 2, 2) if is_basic else (3, 4, 6, 3)):
        args["layers"] = list(layers)
    if widths != [64, 128, 256, 512]:
        args["channels"] = widths
    if stem != 64:
        args["stem_width"] = stem
    if is_basic:
        return args
    # timm: inner channels = floor(channels * base_width / 64) * cardinality
    groups, inner = _groups(encoder), int(encoder["layer1.0.conv1.weight"].shape[0])
    base_width, rest = divmod(64 * inner, groups * widths[0])
    if rest:
        raise ValueError(f"inner convolutions of {inner} channels in blocks of {4 * widths[0]}")
    if groups != 1:
        args["cardinality"] = groups
    if base_width != 64:
        args["base_width"] = base_width
    return args


def _require_plain_blocks(encoder: Mapping[str, Tensor]) -> None:
    """Raise ValueError for relatives of the ResNet, by their names."""
    for part, name in ((".se.", "an SE-ResNet"), (".se_module.", "an SE-ResNet"), (".attn", "a ResNet with attention")):
        if any(part in key for key in encoder):
            raise ValueError(f"{name}, which is not supported")
    if not any(key.startswith("bn1.") for key in encoder):
        raise ValueError("a ResNet without a norm after its stem (pre-activation), which is not supported")
    if encoder["bn1.weight"].shape != encoder.get("bn1.running_mean", encoder["bn1.weight"]).shape:
        raise ValueError("a ResNet with split batch norm (lightly's num_splits), which is not supported")
    if "bn1.running_mean" not in encoder:
        raise ValueError("a ResNet without BN's moving averages (another norm), which is not supported")


def sequential(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a head's state dict as one of an ``nn.Sequential``, without counters: a lone layer becomes layer 0."""
    return {f"0.{k}" if k in ("weight", "bias") else k: v for k, v in without_counters(state).items()}


def without_wrappers(key: str) -> str:
    """Return a key without the names that ``torch.compile``, FSDP and activation checkpointing put into it."""
    return _WRAPPERS.sub("", key)


def without_module(key: str) -> str:
    """Return a key without the ``module.`` that DDP and DataParallel put before the names of their network."""
    return _MODULE.sub("", key)


def unwrapped(state: Mapping[str, V]) -> dict[str, V]:
    """Return a state dict without the wrappers in its keys and without ``module.``, once or repeated, before them.

    Raises:
        ValueError: two keys become one.
    """
    found = {_DATA_PARALLEL.sub("", without_wrappers(k)): v for k, v in state.items()}
    if len(found) != len(state):
        raise ValueError("the same keys with and without module. before them")
    return found


def one_of_two(taken: str, which: str, other: str) -> str:
    """Say which network of a file was taken, and with which option the other one is."""
    return f"two networks: took the {taken} (--which {which}); --which {_OTHER[which]} takes the {other}"


def body_of(state: Mapping[str, V]) -> dict[str, V]:
    """Return the tensors of a ResNet in torchvision's names, without its classifier and what else stands beside it.

    Raises:
        ValueError: beside its first convolution are others, or a pool has weights: a network here would leave them out.
    """
    body = {k: v for k, v in state.items() if k.startswith(("conv1.", "bn1.", "layer"))}
    if more := [k for k in state if _MORE_STEM.match(k)]:
        raise ValueError(f"{more[0]} beside conv1: a stem of several convolutions, which is not supported")
    if pool := [k for k in state if _LEARNED_POOL.match(k)]:
        raise ValueError(f"{pool[0]}: a pool with weights of its own, which is not supported")
    return body


def starting_with(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of a state dict under a prefix, without the prefix."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def unread_weights(dropped: Mapping[str, str]) -> str:
    """Return the end of a message where weights of the file were not read; empty where all were."""
    for place, kind in dropped.items():
        if place.rpartition(".")[2] in ("weight", "bias", "running_mean", "running_var"):
            how = "save the full state_dict() of tensors on the CPU"
            if kind.endswith("DTensor"):
                how = "it is a shard: save get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))"
            return f"; {place[:100]} is a {kind}, no plain tensor: {how}"
    return ""


def not_official(path: Path, title: str, error: Exception, dropped: Mapping[str, str] | None = None) -> UserError:
    """Return the error for a file that is no checkpoint of the code that the user named.

    Args:
        error: of the reader; a ``KeyError`` is of a key that the file lacks.
        dropped: see ``OfficialCheckpoint``.
    """
    reason = reason_of(error)
    if isinstance(error, KeyError):
        reason = f"no {reason_of(Exception(*error.args[:1]))} in it"
    return UserError(
        f"{path.name} is not a checkpoint of {title}'s official code ({reason}){unread_weights(dropped or {})}; "
        "without --from, `zoo convert` finds out what a file is"
    )


def require_online(which: str, kind: str) -> None:
    """Raise UserError if ``which`` is not ``online``: the method has one network only."""
    if which != "online":
        raise UserError(f"{kind} has no {which} network: leave --which out")
