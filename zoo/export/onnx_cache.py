"""The cache of exported ONNX files that ``zoo.load(backend="onnx")`` runs."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.system.cache_dir import cache_folder

if TYPE_CHECKING:
    from zoo.hub.weights import WeightFile
    from zoo.inference.embedder import Embedder


def cached_onnx(file: WeightFile, precision: str) -> Path:
    """The export of these weights in the cache folder; made, behind its parity gate, where it is missing or damaged.

    Named after all that decides it: weights, architecture, preprocessing, precision and the version of the export.
    """
    from zoo.inference.onnx_backend import FORMAT, import_onnxruntime
    from zoo.system.atomic_files import sha256_file

    import_onnxruntime()
    assert file.sha256 is not None  # ``choose`` refuses random networks
    decides = [file.sha256, asdict(file.architecture), file.preprocessing.to_json(), precision, FORMAT]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=dict).encode()).hexdigest()
    path = cache_folder() / "onnx" / f"{file.name[:80]}-{precision}-{digest[:20]}.onnx"
    stamp = path.with_suffix(".sha256")
    try:
        if sha256_file(path) == stamp.read_text():
            return path
    except OSError:
        pass
    try:
        _make(file, precision, path, stamp)
    except UserError as error:  # not silently on another engine: that would be other bytes
        raise UserError(f"no ONNX file of {file.name} could be made ({error}): use --backend torch") from error
    return path


def _make(file: WeightFile, precision: str, path: Path, stamp: Path) -> None:
    from zoo.export.export import Variant, export_onnx
    from zoo.hub.weights import load_encoder
    from zoo.inference.embedder import about, open_torch
    from zoo.system.atomic_files import atomic_write_text, make_folder

    print(f"making the ONNX file of {file.name} ({precision}), once: {path}", file=sys.stderr, flush=True)
    make_folder(path.parent)
    embedder: Embedder = open_torch(load_encoder(file), file.preprocessing, about(file), device="cpu")
    made = export_onnx(embedder, path, Variant(pixels="crop", precision=precision))
    atomic_write_text(stamp, made.sha256)
