"""State dicts of encoders and heads: read from safetensors, checked against an architecture, cast to half precision."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo.errors import UserError, reason_of
from zoo.models.registry import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

V = TypeVar("V")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms


def check_state(state: Mapping[str, Tensor], architecture: Architecture, what: str) -> None:
    """Compare a state dict with the encoder of an architecture; the network's memory is not allocated for that.

    Args:
        what: name of the weights for messages.

    Raises:
        UserError: keys are missing or unknown, shapes differ, values are not finite or were quantised, or the
            architecture states another number of features than its network has.
    """
    import torch

    from zoo.models.backbones import embedding_size
    from zoo.models.resnet import build_encoder

    with torch.device("meta"):
        encoder = build_encoder(architecture)
    features = embedding_size(encoder)
    if features != architecture.num_features:
        raise UserError(f"{what} states {architecture.num_features} features, its network has {features}")
    check_tensors(state, encoder, what)


def check_tensors(state: Mapping[str, Tensor], module: nn.Module, what: str) -> None:
    """Compare a state dict with the module that it is for; see ``check_state``."""
    expected = {k: v.shape for k, v in module.state_dict().items()}
    built = without_counters(module.state_dict())
    # A file may lack counters, and those that it has must be the network's.
    counters = {k: shape for k, shape in expected.items() if k not in built}
    require_equal(counters | {k: v.shape for k, v in state.items()}, expected, what)
    require_own_memory(state, what)
    require_finite(state, what)
    if empty := [key for key, shape in expected.items() if 0 in shape]:  # only its use would fail
        raise UserError(f"{what} holds a layer without channels: {empty[0]}")
    for key, value in built.items():
        if value.is_floating_point() and not state[key].is_floating_point():
            raise UserError(
                f"{what} holds whole numbers, first in {key}: weights that were quantised are not read, convert the "
                "float ones"
            )


def without_counters(shapes: Mapping[str, V]) -> dict[str, V]:
    """Drop BN's ``num_batches_tracked``: inference does not read it, and the official files lack it."""
    return {k: v for k, v in shapes.items() if not k.endswith("num_batches_tracked")}


def require_equal(found: Mapping[str, object], expected: Mapping[str, object], what: str) -> None:
    """Raise UserError where two mappings of keys to shapes differ; the message names the first such key."""
    if keys := sorted({key for key, _ in found.items() ^ expected.items()}):
        raise UserError(f"{what} does not fit its architecture: {len(keys)} keys differ, first {keys[0]}")


def require_own_memory(state: Mapping[str, Tensor], what: str) -> None:
    """Raise UserError where tensors are no plain numbers, or overlap in memory: a copy of each could fill a disk.

    Whole numbers and those of 8 bits are quantised weights, whose scales are elsewhere.
    """
    import torch

    read = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    sizes: dict[int, int] = {}
    for key, tensor in state.items():
        is_counter = key.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or (tensor.dtype not in read and not is_counter):
            why = (
                "" if tensor.dtype.is_complex else ": scales of quantised weights are elsewhere, convert the float ones"
            )
            raise UserError(f"{what} holds numbers of a kind that is not read, first in {key}{why}")
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = sizes.get(storage.data_ptr(), 0) + tensor.nbytes
        if tensor.nbytes and sizes[storage.data_ptr()] > storage.nbytes():
            raise UserError(f"{what} holds tensors that share memory, such as {key}: save each on its own")


def require_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Raise UserError where a tensor holds a NaN, an infinity, a float64 beyond float32, or a variance below 0."""
    import torch

    plain = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    whole = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    for key, value in state.items():
        if value.dtype not in plain + whole:  # 8-bit floats have scales elsewhere
            raise UserError(f"{what} holds numbers of a kind that is not read ({value.dtype}), first in {key}")
        if value.dtype in plain and not bool(value.float().isfinite().all()):
            raise UserError(f"{what} holds values that are not finite, first in {key}")
        if key.endswith("running_var") and bool((value < 0).any()):
            raise UserError(f"{what} holds a variance below 0, first in {key}")


def half_of(state: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Return contiguous float32 tensors; with ``half``, all but one-dimensional ones (BN, biases) in float16.

    BN stays float32 because its running variances would lose their small values.

    Raises:
        UserError: a weight is too large for float16.
    """
    import torch

    def converted(key: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        if not half or tensor.ndim < 2 or not tensor.numel():
            return tensor.to(torch.float32).contiguous()
        if (most := float(tensor.abs().max())) > torch.finfo(torch.float16).max:
            raise UserError(f"{key} holds a weight of {most:.3g}, too large for float16: leave --half out")
        return tensor.to(torch.float16).contiguous()

    return {k: converted(k, v) for k, v in state.items()}


def to_safetensors(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialise tensors as safetensors, with the same bytes each time.

    safetensors writes the metadata in the order of a hash map, which is another one in every process; here they are
    sorted by their keys.
    """
    from safetensors.torch import save

    data = save(tensors, dict(metadata))
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[begin:]))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        UserError: the file is missing, truncated, or no safetensors file.
    """
    from safetensors import safe_open

    with _readable(path), safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file without importing torch.

    Raises:
        UserError: the file is missing, truncated, or no safetensors file.
    """
    from safetensors import safe_open

    with _readable(path), safe_open(path, framework="np") as file:
        return file.metadata() or {}


def count_parameters(path: Path) -> int:
    """Return the number of trainable scalars in the safetensors file of an encoder; its tensors are not read.

    Raises:
        UserError: the file is missing, truncated, or no safetensors file.
    """
    from safetensors import safe_open

    with _readable(path), safe_open(path, framework="np") as file:
        trained = [key for key in file.keys() if not key.endswith(_STATISTICS)]  # noqa: SIM118
        return sum(math.prod(file.get_slice(key).get_shape()) for key in trained)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"no weights at {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path.name} is not a safetensors file: {reason_of(error)}") from None
