"""Build the networks of located weights: the encoder and its heads.

Keys, shapes and values are checked before they are used. Nothing here falls back to random weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.models import checkpoint_dir
from zoo.models.licences import announce
from zoo.models.state_dict import check_state, read_tensors, require_equal, require_finite, without_counters

if TYPE_CHECKING:
    from torch import nn

    from zoo.hub.weights import WeightFile
    from zoo.models.head_spec import EncoderHeads


def load_encoder(file: WeightFile) -> nn.Module:
    """Build the encoder and load its weights, float32, in eval mode; without a file, initialise it from seed 0.

    Raises:
        UserError: keys are missing or unknown, shapes differ, or values are not finite; the message names a key. Or
            the network does not take images of the size that the file states.
    """
    import torch

    from zoo.models.resnet import build_encoder

    # A random network is the same one each time.
    if file.path is None:
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays unchanged
            torch.manual_seed(0)
            return build_encoder(file.architecture).eval()
    # Read the tensors and compare them with the architecture.
    announce(file.name, file.licence, file.source)
    state, _ = read_tensors(file.path)
    check_state(state, file.architecture, file.path.name)
    _require_images(file, file.path.name)
    state = {k: v.float() for k, v in state.items()}
    # Buffers that no file holds, such as the positions in a window, come from the constructor.
    if not file.architecture.is_resnet:
        with torch.random.fork_rng(devices=[]):
            encoder = build_encoder(file.architecture).eval()
        encoder.load_state_dict(state, strict=False)
        _zero_counters(encoder)
        return encoder
    # No initialisation of weights that are about to be replaced: it takes seconds for the large networks.
    with torch.device("meta"):
        encoder = build_encoder(file.architecture).eval()
    encoder.to_empty(device="cpu")
    encoder.load_state_dict(state, strict=False)
    _zero_counters(encoder)
    return encoder


def load_heads(file: WeightFile) -> EncoderHeads | None:
    """Load projector, predictor and further heads of a converted model, float32, in eval mode; ``None`` without any.

    Raises:
        UserError: as ``load_encoder``.
    """
    import torch

    from zoo.models.head_spec import PARTS, EncoderHeads, build_head

    # Not every file has heads.
    if file.heads_path is None:
        return None
    if file.folder is None:
        return _load_companion(file)
    layouts = checkpoint_dir.read(file.folder).heads
    if unknown := sorted(set(layouts) - set(PARTS)):
        raise UserError(f"{file.folder}: heads {str(unknown)[:100]} are not known to this version")
    state, _ = read_tensors(file.heads_path)
    require_finite(state, file.heads_path.name)
    # The config decides the sizes: compare keys and shapes with the file before any memory is taken.
    with torch.device("meta"):
        modules = {part: build_head(layout) for part, layout in layouts.items()}
    expected = {f"{part}.{k}": v.shape for part, m in modules.items() for k, v in m.state_dict().items()}
    require_equal({k: v.shape for k, v in state.items()}, without_counters(expected), file.heads_path.name)
    for part, module in modules.items():
        own = {k.removeprefix(f"{part}."): v.float() for k, v in state.items() if k.startswith(f"{part}.")}
        module.to_empty(device="cpu")
        module.load_state_dict(own, strict=False)
        _zero_counters(module)
    return EncoderHeads(**modules)


def _require_images(file: WeightFile, what: str) -> None:
    """Compare the images that a file states with its network; a ResNet takes any side, so only others are run."""
    import torch

    from zoo.models.backbones import require_takes
    from zoo.models.resnet import build_encoder

    architecture, preprocessing = file.architecture, file.preprocessing
    if architecture.is_resnet and not architecture.project_first:
        return
    with torch.device("meta"):
        module = build_encoder(architecture).eval()
    require_takes(module, preprocessing.channels, preprocessing.input_size, what)


def _load_companion(file: WeightFile) -> EncoderHeads | None:
    from zoo.models.head_spec import EncoderHeads, build_head, read_layout

    modules = {}
    for part, state in file.exported_heads().items():
        require_finite(state, f"{file.name}: {part}")
        modules[part] = build_head(read_layout(state))
        modules[part].load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    return EncoderHeads(**modules) if modules else None


def _zero_counters(module: nn.Module) -> None:
    """Set BN's counters, which a file may lack and ``to_empty`` leaves undefined."""
    for name, buffer in module.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
