"""Builds the encoders: timm's ResNets for a depth, a width, a stem and a padding.

No ResNet of our own: what timm builds is what torch.hub, timm's and transformers' hub loaders and ONNX share.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from zoo.models.registry import Architecture


def build_encoder(architecture: Architecture, *, zero_init_residual: bool = False) -> nn.Module:
    """A randomly initialised encoder: float [N, 3, H, W], normalised -> [N, D], the pooled last features.

    ``zero_init_residual`` sets the last BN gamma of each block to 0 (SimSiam's official code; BYOL's paper used 1).
    Draws from torch's global generator: seed it first for a reproducible network.
    """
    import timm

    encoder: nn.Module = timm.create_model(
        architecture.timm_name,
        pretrained=False,
        num_classes=0,
        zero_init_last=zero_init_residual,
        **architecture.model_args,
    )
    if architecture.stem == "cifar":
        _shrink_stem(encoder)
    if architecture.project_first:
        _project_first(encoder)
    if architecture.padding != "symmetric":
        _pad_as_tensorflow(encoder, convolutions=architecture.padding == "same")
    return encoder


def _shrink_stem(encoder: nn.Module) -> None:
    """Puts a 3x3 convolution of stride 1 in the place of the 7x7 one and its pool, initialised as timm does."""
    parent, convolution, pool = (
        (encoder.stem, "conv", "pool") if hasattr(encoder, "stem") else (encoder, "conv1", "maxpool")
    )
    width = getattr(parent, convolution).out_channels
    # padding 1 is also what TF's 'SAME' gives a stride of 1
    small = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    setattr(parent, convolution, small)
    setattr(parent, pool, nn.Identity())


def _pad_as_tensorflow(encoder: nn.Module, *, convolutions: bool) -> None:
    """Strided layers become timm's same-padded ones: TF pads by what the input size needs, more at the bottom right.

    1x1 kernels need no padding, and at stride 1 both paddings are the same: those layers stay as they are.
    """
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.pool2d_same import MaxPool2dSame

    for parent in list(encoder.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.MaxPool2d):
                setattr(parent, name, MaxPool2dSame(layer.kernel_size, layer.stride))
            elif convolutions and isinstance(layer, nn.Conv2d) and layer.stride != (1, 1) != layer.kernel_size:
                size, stride = (layer.kernel_size[0], layer.kernel_size[1]), (layer.stride[0], layer.stride[1])
                bias = layer.bias is not None
                same = Conv2dSame(layer.in_channels, layer.out_channels, size, stride, bias=bias, device="meta")
                same.weight, same.bias = layer.weight, layer.bias
                setattr(parent, name, same)


def _project_first(encoder: nn.Module) -> None:
    from timm.models.resnet import downsample_conv

    block = encoder.get_submodule("layer1.0")
    channels = block.get_submodule("conv1").in_channels
    assert isinstance(channels, int)
    block.downsample = downsample_conv(channels, channels, kernel_size=1)


def preactivation_family(architecture: Architecture) -> Architecture:
    """The same network spelt as timm's ``resnetv2_50(preact=False)``, the family that takes a width and TF padding."""
    if architecture.timm_name == "resnetv2_50":
        return architecture
    layers = {"resnet50": [3, 4, 6, 3], "resnet200": [3, 24, 36, 3]}[architecture.timm_name]
    return replace(architecture, timm_name="resnetv2_50", model_args={"preact": False, "layers": layers})


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters())


def encoder_state(module: nn.Module) -> dict[str, Tensor]:
    """State without ``num_batches_tracked``: inference does not read it, and the official files lack it."""
    return {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
