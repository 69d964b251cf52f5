"""From a name or a path to verified weights: bundled file or local safetensors -> encoder in memory.

A file is hashed before it is parsed, and its keys, shapes and values are checked before it is used. Nothing here
falls back to random weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.errors import UserError
from zoo.files import atomic_write_bytes, sha256_file
from zoo.preprocess import Preprocessing
from zoo.registry import ARCHITECTURES, Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

BUNDLED = Path(__file__).parent / "bundled"
FORMAT = "siamese-zoo encoder 1"
RANDOM = "random"  # as a tag: a network without weights, for baselines and tests


@dataclass(frozen=True)
class WeightFile:
    """Weights on this machine, located and hashed but not yet read.

    Attributes:
        path: ``None`` for ``NAME.random``, which has no file.
        name: ``NAME.tag`` of the registry, or the file's stem.
        sha256: of the file.
    """

    path: Path | None
    name: str
    sha256: str | None
    method: str
    architecture: Architecture
    preprocessing: Preprocessing
    licence: str


def is_path(model: str | Path) -> bool:
    """Whether ``model`` means a file: it has a folder, a file's suffix, or stands in the current folder."""
    text = str(model)
    return isinstance(model, Path) or "/" in text or text.endswith((".safetensors", ".onnx")) or Path(text).is_file()


def locate(model: str | Path, *, pretrained: bool = True) -> WeightFile:
    """The file behind a registry name (``NAME`` or ``NAME.tag``) or a path to safetensors.

    ``pretrained=False``, or the tag ``random``, asks for the architecture of a name without weights.

    Raises:
        UserError: unknown name or tag, no released weights (the message says how to train them), a file that is
            missing, has another hash than the registry says, or was not written by ``zoo-train export``.
    """
    if is_path(model):
        if not pretrained:
            raise UserError(f"{model} is a file of weights: pretrained=False takes a name of `zoo list`")
        return _local(Path(model))
    name = str(model)
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if not pretrained or tag == RANDOM:
        like = spec.weights.get(tag or "") or next(iter(spec.weights.values()), None)
        preprocessing = like.preprocessing if like else registry.IMAGENET_224
        architecture = ARCHITECTURES[spec.architecture]
        return WeightFile(None, f"{spec.name}.{RANDOM}", None, spec.method, architecture, preprocessing, "none")
    if tag is None:
        raise UserError(
            f"{spec.name} has no released weights: train them with `zoo-train run {spec.recipe} --data DATA --out RUN` "
            "and load the file that `zoo-train export` writes, or ask for pretrained=False"
        )
    if tag not in spec.weights:
        known = ", ".join(spec.weights) or "none"
        raise UserError(f"{spec.name} has no weights {tag!r}; its tags: {known}")
    weights = spec.weights[tag]
    if not weights.bundled:
        raise UserError(
            f"{spec.name}.{tag} ({weights.licence}) is published at {weights.location} and cannot be fetched by this "
            "version: give the path of a safetensors file, or ask for pretrained=False"
        )
    path = BUNDLED / weights.location.removeprefix("bundled:")
    sha256 = _hash(path)
    if sha256 != weights.sha256:
        raise UserError(f"{path.name} does not have the sha256 of the registry: install the package again")
    architecture = replace(ARCHITECTURES[spec.architecture], padding=weights.padding)
    return WeightFile(
        path, f"{spec.name}.{tag}", sha256, spec.method, architecture, weights.preprocessing, weights.licence
    )


def load_encoder(file: WeightFile) -> nn.Module:
    """The encoder with these weights, float32, in eval mode; without a file, initialised from seed 0.

    Raises:
        UserError: missing or extra keys, other shapes, or values that are not finite; the keys are named.
    """
    import torch

    from zoo.encoder import build_encoder

    with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to change
        torch.manual_seed(0)
        encoder = build_encoder(file.architecture).eval()
    if file.path is None:
        return encoder
    state, _ = read(file.path)
    expected = {k: v.shape for k, v in encoder.state_dict().items() if not k.endswith("num_batches_tracked")}
    found = {k: v.shape for k, v in state.items()}
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))
        keys = list(dict.fromkeys(k for k, _ in wrong))
        raise UserError(f"{file.path.name} does not fit its architecture: {len(keys)} keys differ, first {keys[0]}")
    if bad := [k for k, v in state.items() if not bool(v.isfinite().all())]:
        raise UserError(f"{file.path.name} holds values that are not finite, first in {bad[0]}")
    encoder.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    return encoder


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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
        raise UserError(f"{path.name} is no safetensors file: {str(error).splitlines()[0]}") from None


def save_encoder(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any], *, half: bool = False) -> str:
    """Writes an encoder as safetensors that ``locate`` reads back, atomically; returns its sha256.

    Args:
        metadata: ``architecture`` (a key of the registry or a dict of ``Architecture``), ``method``,
            ``preprocessing``, ``licence`` and what else should travel with it.
        half: convolutions in float16; BN stays float32, whose running variances would lose their small values.
    """
    import torch
    from safetensors.torch import save

    tensors = {k: v.to(torch.float16 if half and v.ndim > 1 else torch.float32).contiguous() for k, v in state.items()}
    texts = {"format": FORMAT} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    atomic_write_bytes(path, save(tensors, metadata=texts))
    return sha256_file(path)


def _local(path: Path) -> WeightFile:
    sha256 = _hash(path)
    _, metadata = read(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} was not written by `zoo-train export`: it does not say its architecture")
    try:
        architecture = ARCHITECTURES[metadata["architecture"]]
        preprocessing = Preprocessing.from_json(json.loads(metadata["preprocessing"]))
        return WeightFile(path, path.stem, sha256, metadata["method"], architecture, preprocessing, metadata["licence"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} has metadata that this version does not understand ({error!r})") from None


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"no weights at {path} ({error.strerror})") from None
