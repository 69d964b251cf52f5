"""Open the model that made an extraction, so that new images can be compared with its embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.errors import UserError
from zoo.inference.embedder import Embedder
from zoo.inference.outputs import Outputs
from zoo.loading import load
from zoo.models import registry

# These decide where an embedding points. Backend and device move it by less than neighbours differ.
_BACKENDS = ("torch", "onnx", "openvino")
_MUST_AGREE = ("weights_sha256", "preprocessing", "dim")


def reopen_model(
    root: Path, manifest: Mapping[str, object], model: str | None = None, *, device: str | None = None
) -> Embedder:
    """Open the model that made the folder ``root``, with the same preprocessing, backend and precision.

    Args:
        model: a name or path as for ``zoo.load``; required if the folder was made with a file, because the manifest
            holds no more than its name.

    Raises:
        UserError: the model cannot be found, or it is another one.
    """
    # Fall back to the model that the manifest names.
    made_with = str(manifest["model"])
    if model is None:
        model = made_with
        if registry.split_name(model)[0] not in registry.MODELS:
            sha256 = str(manifest.get("weights_sha256"))[:16]
            raise UserError(
                f"{root} was made with a file named {model!r} (sha256 {sha256}...), "
                "which is no name of `zoo list`: say where it is with --model PATH"
            )
    # Load it as the extraction did, so that embeddings are comparable.
    normalize, outputs = bool(manifest.get("normalize")), Outputs(crops=str(manifest.get("crops", "center")))
    backend, precision = manifest.get("backend"), manifest.get("precision")
    if str(model).endswith(".onnx") and backend != "openvino":  # the file decides backend and precision
        embedder = load(model, device=device, normalize=normalize, outputs=outputs)
    else:
        if backend not in _BACKENDS or not isinstance(precision, str):
            raise UserError(f"the manifest of {root} does not say what ran the model: extract again")
        embedder = load(
            model, device=device, backend=backend, precision=precision, normalize=normalize, outputs=outputs
        )

    # refuse any other model: its embeddings cannot be compared
    identity = embedder.identity()
    for key in _MUST_AGREE:
        if identity.get(key) != manifest.get(key):
            raise UserError(
                f"{root} was made with another model: {key} is {_short(manifest.get(key))} there and "
                f"{_short(identity.get(key))} in {model}; search with the one it was made with, or extract again"
            )
    # Without a hash, the name is all there is to compare.
    if manifest.get("weights_sha256") is None and identity["model"] != made_with:
        raise UserError(f"{root} was made with {made_with}, not with {identity['model']}")
    return embedder


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 64 else text[:64] + "..."
