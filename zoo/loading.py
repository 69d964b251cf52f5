"""Open a model by name or path: ``load`` and ``list_models``, re-exported by ``zoo``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.export.onnx_cache import cached_onnx
from zoo.hub import networks, weights
from zoo.inference import backend_choice
from zoo.inference.embedder import Embedder, open_torch
from zoo.inference.outputs import EMBEDDING_ONLY, Outputs, require_outputs
from zoo.inference.weights_info import weights_info_of
from zoo.models import registry
from zoo.models.registry import DEFAULT_MODEL
from zoo.system.atomic_files import sha256_file
from zoo.system.hardware import require_device_name
from zoo.system.preflight import require_packages
from zoo.system.torch_defaults import float32_on_cpu

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Opening:
    """The call of ``load`` that opens the same embedder in another process; an embedder is pickled as this.

    Attributes:
        model: ``NAME.tag``, ``hf-hub:ORG/NAME@COMMIT``, or an absolute path.
        sha256: of the weights, or of an ONNX file; ``None`` for random weights.
        device, backend, precision, normalize, outputs: as in ``load``; the backend is the one that was chosen.
    """

    model: str
    sha256: str | None
    device: str | None
    backend: str
    precision: str
    normalize: bool
    outputs: Outputs

    def __call__(self) -> Embedder:
        """Open the embedder. Raises UserError: ``load`` does, or the weights are others now."""
        if self.model.endswith(".onnx"):
            found = sha256_file(Path(self.model)) if os.path.isfile(self.model) else None
        else:
            found = weights.locate(self.model).sha256
        if found is not None and found != self.sha256:
            raise UserError(
                f"{self.model} has other weights (sha256 {found[:16]}...) than when this embedder was pickled "
                f"({str(self.sha256)[:16]}...): open it with zoo.load again"
            )
        return load(
            self.model,
            device=self.device,
            backend=self.backend,
            precision=self.precision,
            normalize=self.normalize,
            outputs=self.outputs,
        )


@float32_on_cpu()
def load(
    name_or_path: str | Path | None = None,
    *,
    pretrained: bool = True,
    device: str | torch.device | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    normalize: bool = False,
    outputs: Outputs = EMBEDDING_ONLY,
) -> Embedder:
    """Open a model: ``load()(images)`` gives float32 [N, D], ``load(outputs=...).outputs(images)`` further outputs.

    Args:
        name_or_path: ``NAME`` or ``NAME.tag`` of ``list_models()``; ``hf-hub:ORG/NAME``, optionally with ``@REVISION``;
            a folder of ``zoo convert``; a path to ``.safetensors`` (of ``zoo-train export``) or ``.onnx`` (of
            ``zoo export``). ``None`` is the network that ships with the package.
        pretrained: ``False`` gives the architecture of a name with random weights (seed 0), for baselines; so does
            the tag ``random``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or a ``torch.device``; ``None`` is the first GPU if there is
            one, else the CPU; with ``onnx`` it is always the CPU.
        backend: ``torch``; ``onnx`` or ``openvino``, for which the model is exported once into the cache folder; or
            ``auto``, the fastest on this machine by the rule of ``zoo.inference.backend_choice``.
        precision: ``fp32``, ``bf16`` (torch, by autocast, and openvino) or ``int8`` (static; onnx and openvino).
        normalize: scale embeddings, and those of tiles, to length 1.
        outputs: layers, maps, heads, crops and tiles, such as ``zoo.Outputs(layers=("layer3",), crops="ten")``. Logits
            are added where the checkpoint has a classifier. Layers, maps and whole images need torch.

    Returns:
        An ``Embedder``. With torch its ``model`` is the bare torch module, normalised float [N, 3, H, W] -> [N, D], and
        its ``heads`` are the projector and predictor of a converted model.

    Raises:
        UserError: the name is unknown, no weights are released, a file is damaged, the device is missing, or the
            checkpoint or the backend lacks a requested output.
    """
    if isinstance(name_or_path, Embedder):
        raise UserError(f"{name_or_path!r} is open already: give the name or the path of a model")
    require_outputs(outputs)
    device = None if device is None else str(device)
    # what can be said at once, before weights are fetched and libraries imported
    require_device_name(device)
    if backend == "openvino":
        require_packages("the OpenVINO backend", "openvino", "openvino", "onnxruntime")
    elif backend == "onnx" or str(name_or_path).endswith(".onnx"):
        require_packages("the ONNX backend", "onnx", "onnxruntime")
    model = DEFAULT_MODEL if name_or_path is None else name_or_path
    if str(model).endswith(".onnx"):
        return _load_onnx_file(Path(model), device, backend, precision, normalize, outputs)
    # the weights, and what they can give
    file = weights.locate(model, pretrained=pretrained)
    requested = outputs.for_checkpoint(file.parts, file.name)
    if requested.crops == "full":
        file.preprocessing.require_whole()
    # the backend
    choice = backend_choice.choose(
        backend, device=device, precision=precision, random=file.sha256 is None, torch_only=requested.torch_only
    )
    opening = Opening(_absolute(model, file), file.sha256, device, choice.backend, precision, normalize, outputs)
    if choice.backend in backend_choice.ON_CPU:
        # bf16 is made of fp32 weights when they are opened
        embedder = _opener(choice.backend, precision)(
            cached_onnx(file, "int8" if precision == "int8" else "fp32"),
            device=device,
            normalize=normalize,
            requested=requested,
            heads=networks.load_heads(file) if requested.heads else None,
            heads_sha256=file.heads_sha256,
            backend_reason=choice.reason,
        )
        return embedder.with_reopening(opening)
    embedder = open_torch(
        networks.load_encoder(file),
        file.preprocessing,
        weights_info_of(file, with_heads=bool(requested.heads)),
        device=device,
        precision=precision,
        normalize=normalize,
        requested=requested,
        heads=networks.load_heads(file),
        backend_reason=choice.reason,
    )
    return embedder.with_reopening(opening)


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Return the names of the registry that fit a pattern, in its order.

    Args:
        pattern: with ``*`` and ``?``, such as ``"byol*"`` or ``"*_r50"``; capitals do not matter.
        pretrained: only names with released weights.
    """
    return [
        name
        for name, spec in registry.MODELS.items()
        if fnmatchcase(name.lower(), pattern.lower()) and (spec.weights or not pretrained)
    ]


def _opener(backend: str, precision: str) -> Callable[..., Embedder]:
    """Return the function that opens an ONNX file, without importing the runtime of the other one."""
    if backend == "openvino":
        from zoo.inference.openvino_backend import open_openvino

        return partial(open_openvino, precision=precision)
    from zoo.inference.onnx_backend import open_onnx

    return open_onnx


def _load_onnx_file(
    path: Path, device: str | None, backend: str, precision: str, normalize: bool, outputs: Outputs
) -> Embedder:
    backend = "openvino" if backend == "openvino" else "onnx"
    if precision == "bf16" and backend == "onnx":
        raise UserError("--precision bf16 needs --backend torch")
    if outputs.torch_only:
        raise UserError(f"{outputs.torch_only} needs weights and --backend torch, not an .onnx file")
    requested = outputs.for_checkpoint((), str(path))
    embedder = _opener(backend, precision)(path, device=device, normalize=normalize, requested=requested)
    sha256 = embedder.engine.versions["onnx_file"]
    own = precision if backend == "openvino" else "fp32"
    opening = Opening(os.path.abspath(path), sha256, device, backend, own, normalize, outputs)
    return embedder.with_reopening(opening)


def _absolute(model: str | Path, file: weights.WeightFile) -> str:
    """Return a name that means the same weights in any working folder and after a repository or a default changed."""
    if weights.is_hub_reference(model):
        return file.source  # with the commit
    return os.path.abspath(model) if weights.is_path(model) else file.name
