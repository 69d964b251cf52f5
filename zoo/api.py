"""The public functions, re-exported by ``zoo``: ``load``, ``extract``, ``list_models``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo import registry, weights
from zoo.embed import Embedder, about, open_torch
from zoo.errors import UserError
from zoo.paths import cache_folder
from zoo.registry import DEFAULT_MODEL

BACKENDS = ("torch", "onnx")


def load(
    name_or_path: str | Path | None = None,
    *,
    pretrained: bool = True,
    device: str | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    normalize: bool = False,
) -> Embedder:
    """Opens a model: ``load()(images)`` gives float32 [N, D].

    Args:
        name_or_path: ``NAME`` or ``NAME.tag`` of ``list_models()``, or a path to ``.safetensors`` (of
            ``zoo-train export``) or ``.onnx`` (of ``zoo export``). ``None`` is the network that ships with the package.
        pretrained: ``False`` gives the architecture of a name with random weights (seed 0), for baselines; so does
            the tag ``random``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``None`` is the first GPU if there is one, else the CPU.
        backend: ``torch`` or ``onnx``; with ``onnx`` a name is exported once into the cache folder.
        precision: ``fp32``, or ``bf16`` (autocast; torch only).
        normalize: embeddings of length 1.

    Returns:
        An ``Embedder``; its ``model`` is the bare torch module, normalised float [N, 3, H, W] -> [N, D].

    Raises:
        UserError: unknown name, no released weights, a damaged file, or a device that is not there.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}: one of {', '.join(BACKENDS)}")
    model = DEFAULT_MODEL if name_or_path is None else name_or_path
    is_onnx_file = str(model).endswith(".onnx")
    if backend == "onnx" or is_onnx_file:
        if precision != "fp32":
            raise UserError(f"--precision {precision} needs --backend torch")
        return _load_onnx(Path(model) if is_onnx_file else _cached_onnx(model, pretrained), device, normalize)
    file = weights.locate(model, pretrained=pretrained)
    return open_torch(
        weights.load_encoder(file),
        file.preprocessing,
        about(file),
        device=device,
        precision=precision,
        normalize=normalize,
    )


def list_models() -> list[str]:
    """All names of the registry, with released weights or without."""
    return list(registry.MODELS)


def extract(images: str | Path, out: str | Path, *, model: str | Path | None = None, **options: Any) -> Any:
    """Embeds every image under the folder ``images`` into ``out``; the same as ``zoo extract``.

    Args:
        images: folder, read recursively.
        out: folder for ``embeddings-*.parquet``, ``manifest.json`` and ``run.log.jsonl``.
        model: as ``load``'s ``name_or_path``.
        options: ``device``, ``backend``, ``precision`` and ``normalize`` as in ``load``; ``format``, ``batch_size``,
            ``shard_size``, ``update`` and more as in ``zoo.extraction.extract``.

    Returns:
        ``zoo.extraction.Extraction``: counts, failures, seconds.

    Raises:
        UserError: see ``load`` and ``zoo.extraction.extract``.
    """
    from zoo.extraction import extract as run

    opening = {k: options.pop(k) for k in ("device", "backend", "precision", "normalize") if k in options}
    return run(Path(images), Path(out), embedder=load(model, **opening), **options)


def _load_onnx(path: Path, device: str | None, normalize: bool) -> Embedder:
    from zoo.onnx_engine import open_onnx

    return open_onnx(path, device=device, normalize=normalize)


def _cached_onnx(name: str | Path, pretrained: bool) -> Path:
    """The export of these weights in the cache folder, made where it is missing."""
    from zoo.export import export_onnx
    from zoo.files import make_folder
    from zoo.onnx_engine import import_onnxruntime

    import_onnxruntime()
    file = weights.locate(name, pretrained=pretrained)
    if file.sha256 is None:
        raise UserError("the ONNX backend runs exported weights: a random network needs --backend torch")
    path = cache_folder() / "onnx" / f"{file.name}-{file.sha256[:16]}.onnx"
    if not path.exists():
        make_folder(path.parent)
        export_onnx(load(name, device="cpu"), path)
    return path
