"""Build the encoders: timm's ResNets for a depth, a width, a stem and a padding; other networks of timm as they are.

The networks are timm's, so that torch.hub, timm's and transformers' hub loaders and ONNX share one implementation.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from zoo.errors import UserError
from zoo.models.backbones import create, create_by_timm
from zoo.models.colour_split import SplitEncoder
from zoo.models.registry import Architecture


def build_encoder(architecture: Architecture, *, zero_init_residual: bool = False) -> nn.Module:
    """Build a randomly initialised encoder: normalised float [N, 3, H, W] -> pooled features [N, D].

    The weights come from torch's global generator: seed it first for a reproducible network. Networks of timm that are
    no ResNets of this zoo have timm's own initialisation.

    Args:
        zero_init_residual: set the last BN gamma of each block to 0 (SimSiam's official code; BYOL's paper used 1).
    """
    if not architecture.is_resnet:
        return create(architecture)
    if not architecture.colours:
        return _build_one(architecture, architecture.in_chans, zero_init_residual)
    first, second = (_build_one(architecture, channels, zero_init_residual) for channels in (1, 2))
    return SplitEncoder(first, second, architecture.colours)


def _build_one(architecture: Architecture, channels: int, zero_init_residual: bool) -> nn.Module:
    # Build timm's network.
    args = {k: v for k, v in architecture.model_args.items() if k not in ("in_chans", "stem_width")}
    encoder = create_by_timm(architecture.timm_name, args, in_chans=channels, zero_init_last=zero_init_residual)
    # Change it where the official code differs.
    if "stem_width" in architecture.model_args:
        _set_stem_width(encoder, architecture.model_args["stem_width"])
    if architecture.stem == "cifar":
        _shrink_stem(encoder)
    if architecture.project_first:
        _project_first(encoder)
    if architecture.padding != "symmetric":
        _pad_as_tensorflow(encoder, convolutions=architecture.padding == "same")
    return encoder


def require_same_network(found: Architecture, expected: Architecture, what: str, name: str) -> None:
    """Compare two networks layer by layer; stem and padding may differ, as they belong to the weights.

    timm has two spellings of one ResNet, so the shapes are compared, and not the names.

    Raises:
        UserError: they differ; ``what`` gives the first network and ``name`` asks for the second.
    """

    def shapes(architecture: Architecture) -> list[tuple[int, ...]]:
        import torch

        with torch.device("meta"):
            encoder = build_encoder(replace(architecture, stem="imagenet", padding="symmetric", project_first=False))
        return [tuple(value.shape) for value in encoder_state(encoder).values()]

    ours, theirs = shapes(found), shapes(expected)
    same_name = found.timm_name == expected.timm_name or (found.is_resnet and expected.is_resnet)
    if sorted(ours) != sorted(theirs) or not same_name:
        if found.timm_name == expected.timm_name and found.model_args != expected.model_args:
            ours_args, their_args = dict(found.model_args), dict(expected.model_args)
            raise UserError(
                f"{what} is a {found.timm_name} with {ours_args or 'no arguments'}, {name} is one with "
                f"{their_args or 'none'}: give weights of the same network"
            )
        raise UserError(
            f"{what} is a {found.timm_name} with {len(ours)} tensors and {found.num_features} features, {name} is a "
            f"{expected.timm_name} with {len(theirs)} and {expected.num_features}: give weights of the same network"
        )


def _shrink_stem(encoder: nn.Module) -> None:
    """Replace the 7x7 convolution and its pool by a 3x3 convolution of stride 1, initialised as timm does."""
    parent, convolution, pool = (
        (encoder.stem, "conv", "pool") if hasattr(encoder, "stem") else (encoder, "conv1", "maxpool")
    )
    width = getattr(parent, convolution).out_channels
    # at stride 1 TensorFlow's 'SAME' padding is 1 too
    channels = getattr(parent, convolution).in_channels
    small = nn.Conv2d(channels, width, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    setattr(parent, convolution, small)
    setattr(parent, pool, nn.Identity())


def _set_stem_width(encoder: nn.Module, width: int) -> None:
    """Give timm's ``ResNet``, whose stem has 64 channels, a stem of another width; the first block follows it."""
    from timm.models.resnet import downsample_conv

    old = encoder.get_submodule("conv1")
    block = encoder.get_submodule("layer1.0")
    first, last = block.get_submodule("conv1"), block.get_submodule("conv3" if hasattr(block, "conv3") else "conv2")
    assert isinstance(old, nn.Conv2d)
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    # Make the three layers that touch the stem's channels again, initialised as timm does.
    padding = old.kernel_size[0] // 2
    encoder.conv1 = nn.Conv2d(old.in_channels, width, old.kernel_size[0], old.stride[0], padding, bias=False)
    encoder.bn1 = nn.BatchNorm2d(width)
    padding = first.kernel_size[0] // 2
    block.conv1 = nn.Conv2d(width, first.out_channels, first.kernel_size[0], 1, padding, bias=False)
    for layer in (encoder.conv1, block.conv1):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    out = last.out_channels
    # timm's block has no module of this name where its widths were equal before
    setattr(block, "downsample", downsample_conv(width, out, kernel_size=1) if width != out else None)  # noqa: B010


def _pad_as_tensorflow(encoder: nn.Module, *, convolutions: bool) -> None:
    """Replace strided layers by timm's same-padded ones: TensorFlow pads as the input size needs, more at the end.

    Layers with 1x1 kernels need no padding, and at stride 1 both paddings are equal: they stay as they are.
    """
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.pool2d_same import MaxPool2dSame

    # Swap the layers whose padding depends on the size of the input.
    for parent in list(encoder.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.MaxPool2d):
                setattr(parent, name, MaxPool2dSame(layer.kernel_size, layer.stride))
            elif convolutions and isinstance(layer, nn.Conv2d) and layer.stride != (1, 1) != layer.kernel_size:
                size, stride = (layer.kernel_size[0], layer.kernel_size[1]), (layer.stride[0], layer.stride[1])
                bias, groups = layer.bias is not None, layer.groups
                same = Conv2dSame(
                    layer.in_channels, layer.out_channels, size, stride, groups=groups, bias=bias, device="meta"
                )
                same.weight, same.bias = layer.weight, layer.bias
                setattr(parent, name, same)


def _project_first(encoder: nn.Module) -> None:
    """Add a projection to the shortcut of the first block; that of a pre-activation block has no norm."""
    from timm.layers.create_conv2d import create_conv2d
    from timm.models.resnet import downsample_conv
    from timm.models.resnetv2 import DownsampleConv, ResNetV2

    if isinstance(encoder, ResNetV2):
        block = encoder.get_submodule("stages.0.blocks.0")
        channels = block.get_submodule("conv1").in_channels
        assert isinstance(channels, int)
        block.downsample = DownsampleConv(channels, channels, preact=True, conv_layer=create_conv2d)
        nn.init.kaiming_normal_(block.downsample.conv.weight, mode="fan_out", nonlinearity="relu")
        return
    block = encoder.get_submodule("layer1.0")
    channels = block.get_submodule("conv1").in_channels
    assert isinstance(channels, int)
    block.downsample = downsample_conv(channels, channels, kernel_size=1)


def count_parameters(module: nn.Module) -> int:
    """Return the number of scalars in the parameters."""
    return sum(p.numel() for p in module.parameters())


def encoder_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict without ``num_batches_tracked`` of BN: inference does not read it.

    safetensors stores no tensors that share memory. A tensor with two names is therefore copied.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        place = value.untyped_storage().data_ptr()
        state[key] = value.clone() if place in seen else value
        seen.add(place)
    return state
