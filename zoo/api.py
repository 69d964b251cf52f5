"""The public functions, re-exported by ``zoo``: ``load``, ``list_models`` and ``extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.loading import list_models, load

__all__ = ["extract", "list_models", "load"]


def extract(images: str | Path, out: str | Path, *, model: str | Path | None = None, **options: Any) -> Any:
    """Embeds every image of the source ``images`` into ``out``; the same as ``zoo extract``.

    Args:
        images: a folder, read recursively, or any other of the table in ``zoo.sources``.
        out: folder for ``embeddings-*.parquet``, ``manifest.json`` and ``run.log.jsonl``.
        model: as ``load``'s ``name_or_path``.
        options: ``device``, ``backend`` (here ``auto`` if not given), ``precision``, ``normalize`` and ``outputs`` as
            in ``load``; ``format``, ``batch_size``, ``shard_size``, ``update``, ``dedupe`` and more as in
            ``zoo.extraction.extract.extract``.

    Returns:
        ``zoo.extraction.extract.Extraction``: counts, failures, seconds.

    Raises:
        UserError: see ``load`` and ``zoo.extraction.extract.extract``.
    """
    from zoo.extraction.extract import extract as run

    opening = {k: options.pop(k) for k in ("device", "backend", "precision", "normalize", "outputs") if k in options}
    opening.setdefault("backend", "auto")
    return run(images, Path(out), embedder=load(model, **opening), **options)
