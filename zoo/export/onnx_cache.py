"""The cache of exported ONNX files for ``zoo.load(backend="onnx")``."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.system.cache_dir import cache_folder
from zoo.system.preflight import require_packages
from zoo.system.terminal import print_line

if TYPE_CHECKING:
    from zoo.hub.weights import WeightFile
    from zoo.inference.embedder import Embedder

_NAME_BYTES = 200  # of the model's name; a file's name has at most 255


def cached_onnx(file: WeightFile, precision: str) -> Path:
    """Return the ONNX file of these weights in the cache folder; export it where it is missing or damaged.

    Its name holds a hash of everything that determines it: weights, architecture, preprocessing, precision and the
    format version.

    Args:
        precision: ``fp32`` or ``int8``.

    Raises:
        UserError: onnxruntime or onnx is not installed, or the export differs from torch.
    """
    from zoo.inference.onnx_backend import FORMAT, WEIGHT_BITS, import_onnxruntime
    from zoo.system.atomic_files import begin_of_name, sha256_file
    from zoo.system.hardware import adds_int8_in_16_bits

    import_onnxruntime()
    assert file.sha256 is not None  # ``backend_choice.choose`` refuses random networks
    # A changed key would rename all cached files.
    architecture = asdict(file.architecture)
    if not architecture["colours"]:
        del architecture["colours"]
    # Weights of 8 bits are nearer to fp32. The cache stays on this CPU, so that it may have them if the CPU can.
    weight_bits = WEIGHT_BITS if adds_int8_in_16_bits() else 8
    kind = f"int8, {weight_bits} bits" if precision == "int8" and weight_bits < 8 else precision
    key = [file.sha256, architecture, file.preprocessing.to_json(), kind, FORMAT]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=dict).encode()).hexdigest()
    path = cache_folder() / "onnx" / f"{begin_of_name(file.name[:80], _NAME_BYTES)}-{precision}-{digest[:20]}.onnx"
    hash_file = path.with_suffix(".sha256")
    # Use the cached file only while its hash matches.
    try:
        if sha256_file(path) == hash_file.read_text():
            return path
    except OSError:
        pass
    # Otherwise export it again.
    try:
        require_packages("exporting", "onnx", "onnx", "onnxscript")
        _make(file, precision, weight_bits, path, hash_file)
    except UserError as error:  # no silent switch to torch, whose embeddings have other bytes
        raise UserError(f"no ONNX file of {file.name} could be made ({error}): use --backend torch") from error
    return path


def _make(file: WeightFile, precision: str, weight_bits: int, path: Path, hash_file: Path) -> None:
    from zoo.export.export import Variant, export_onnx
    from zoo.hub.networks import load_encoder
    from zoo.inference.embedder import open_torch
    from zoo.inference.weights_info import weights_info_of
    from zoo.system.atomic_files import atomic_write_text, make_folder

    print_line(f"making the ONNX file of {file.name} ({precision}), once: {path}", file=sys.stderr, flush=True)
    try:
        make_folder(path.parent)
    except UserError as error:
        raise UserError(f"{error}, or set SIAMESE_ZOO_CACHE to a folder of yours") from error
    embedder: Embedder = open_torch(load_encoder(file), file.preprocessing, weights_info_of(file), device="cpu")
    made = export_onnx(embedder, path, Variant(pixels="crop", precision=precision), weight_bits=weight_bits)
    atomic_write_text(hash_file, made.sha256)
