"""State dicts of encoders and heads: read from safetensors, checked against an architecture, cast to half precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError, reason_of
from zoo.models.registry import Architecture

if TYPE_CHECKING:
    from torch import Tensor


def check_state(state: Mapping[str, Tensor], architecture: Architecture, what: str) -> None:
    """Refuses tensors that are not exactly an encoder's; the network is not allocated for that.

    Raises:
        UserError: missing or extra keys, other shapes, values that are not finite, or an architecture that states
            another length of embedding than it has.
    """
    import torch

    from zoo.models.resnet import build_encoder

    with torch.device("meta"):
        encoder = build_encoder(architecture)
    if encoder.num_features != architecture.num_features:
        raise UserError(f"{what} states {architecture.num_features} features, its network has {encoder.num_features}")
    expected = without_counters({k: v.shape for k, v in encoder.state_dict().items()})
    require_equal(without_counters({k: v.shape for k, v in state.items()}), expected, what)
    require_finite(state, what)


def without_counters(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """BN's ``num_batches_tracked`` aside: inference does not read it, and the official files lack it."""
    return {k: v for k, v in shapes.items() if not k.endswith("num_batches_tracked")}


def require_equal(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))
        keys = list(dict.fromkeys(k for k, _ in wrong))
        raise UserError(f"{what} does not fit its architecture: {len(keys)} keys differ, first {keys[0]}")


def require_finite(state: Mapping[str, Tensor], what: str) -> None:
    if bad := [k for k, v in state.items() if not bool(v.isfinite().all())]:
        raise UserError(f"{what} holds values that are not finite, first in {bad[0]}")


def half_of(state: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Contiguous float32; with ``half`` in float16 all but BN, whose running variances would lose small values."""
    import torch

    def converted(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.float16 if half and tensor.ndim > 1 else torch.float32).contiguous()

    return {k: converted(v) for k, v in state.items()}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: missing, truncated, or no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"no weights at {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path.name} is no safetensors file: {reason_of(error)}") from None


def read_metadata(path: Path) -> dict[str, str]:
    """Of a safetensors file; imports no torch.

    Raises:
        UserError: missing, truncated, or no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"no weights at {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path.name} is no safetensors file: {reason_of(error)}") from None
