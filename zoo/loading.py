"""Open a model by name or path: ``load`` and ``list_models``, re-exported by ``zoo``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zoo.errors import UserError
from zoo.export.onnx_cache import cached_onnx
from zoo.hub import weights
from zoo.inference import backend_choice
from zoo.inference.embedder import Embedder, about, open_torch
from zoo.inference.outputs import Outputs
from zoo.models import registry
from zoo.models.registry import DEFAULT_MODEL

_ONLY_EMBEDDING = Outputs()


def load(
    name_or_path: str | Path | None = None,
    *,
    pretrained: bool = True,
    device: str | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    normalize: bool = False,
    outputs: Outputs = _ONLY_EMBEDDING,
) -> Embedder:
    """Opens a model: ``load()(images)`` gives float32 [N, D], ``load(outputs=...).outputs(images)`` more than that.

    Args:
        name_or_path: ``NAME`` or ``NAME.tag`` of ``list_models()``; ``hf-hub:ORG/NAME``, perhaps with ``@REVISION``;
            a folder of ``zoo convert``; a path to ``.safetensors`` (of ``zoo-train export``) or ``.onnx`` (of
            ``zoo export``). ``None`` is the network that ships with the package.
        pretrained: ``False`` gives the architecture of a name with random weights (seed 0), for baselines; so does
            the tag ``random``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``None`` is the first GPU if there is one, else the CPU; with
            ``onnx`` always the CPU.
        backend: ``torch``; ``onnx``, for which a model is exported once into the cache folder; or ``auto``, the
            fastest on this machine by the rule of ``zoo.inference.backend_choice``.
        precision: ``fp32``, ``bf16`` (autocast; torch) or ``int8`` (static; onnx).
        normalize: embeddings, and those of tiles, of length 1.
        outputs: layers, maps, heads, crops and tiles, such as ``zoo.Outputs(layers=("layer3",), crops="ten")``. Logits
            come along where the checkpoint has a classifier. Layers, maps and whole images need torch.

    Returns:
        An ``Embedder``; with torch its ``model`` is the bare torch module, normalised float [N, 3, H, W] -> [N, D],
        its ``heads`` the projector and predictor of a converted model.

    Raises:
        UserError: unknown name, no released weights, a damaged file, a device that is not there, or an output that
            the checkpoint or the engine does not have.
    """
    model = DEFAULT_MODEL if name_or_path is None else name_or_path
    if str(model).endswith(".onnx"):
        if precision == "bf16":
            raise UserError("--precision bf16 needs --backend torch")
        if outputs.only_torch:
            raise UserError(f"{outputs.only_torch} needs weights and --backend torch, not an .onnx file")
        wants = outputs.of_checkpoint((), str(model))
        embedder = _open_onnx(Path(model), device, normalize)
        return replace(embedder, wants=wants)
    file = weights.locate(model, pretrained=pretrained)
    wants = outputs.of_checkpoint(file.parts, file.name)
    if wants.crops == "full":
        file.preprocessing.require_whole()
    choice = backend_choice.choose(
        backend, device=device, precision=precision, random=file.sha256 is None, only_torch=wants.only_torch
    )
    if choice.backend == "onnx":
        embedder = _open_onnx(cached_onnx(file, precision), device, normalize)
        heads = weights.load_heads(file) if wants.heads else None
    else:
        encoder, heads = weights.load_encoder(file), weights.load_heads(file)
        embedder = open_torch(
            encoder, file.preprocessing, about(file), device=device, precision=precision, normalize=normalize
        )
        heads = heads.to(embedder.engine.device) if heads else None
    told = {"heads_sha256": file.heads_sha256} if wants.heads else {}
    return replace(embedder, about=embedder.about | told, heads=heads, chosen=choice.reason, wants=wants)


def list_models() -> list[str]:
    """All names of the registry, with released weights or without."""
    return list(registry.MODELS)


def _open_onnx(path: Path, device: str | None, normalize: bool) -> Embedder:
    from zoo.inference.onnx_backend import open_onnx

    return open_onnx(path, device=device, normalize=normalize)
