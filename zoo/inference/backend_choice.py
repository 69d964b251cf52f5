"""Which engine runs a model on this machine, and the ONNX files that ONNX Runtime needs for it.

The rule of ``backend="auto"``. It looks at what is asked for and installed, never at a clock, so that the same
command makes the same bytes on one kind of machine:

1. int8 runs on ONNX Runtime, bf16 on torch, and so does what only torch can do; so do random weights, which have no
   file an ONNX file could be named after.
2. A device other than the CPU, or none asked for where a GPU is in sight: torch, in fp32 unless asked otherwise.
3. On a CPU: ONNX Runtime in fp32 where onnxruntime, onnx and onnxscript are installed, which is faster than torch at
   embeddings that agree to 1e-4; else torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.system.cache_dir import cache_folder
from zoo.system.hardware import gpu_in_sight

if TYPE_CHECKING:
    from zoo.hub.weights import WeightFile
    from zoo.inference.embedder import Embedder

BACKENDS = ("auto", "torch", "onnx")
PRECISIONS = {"torch": ("fp32", "bf16"), "onnx": ("fp32", "int8")}
_INSTALL = "pip install 'siamese-zoo[onnx]'"


@dataclass(frozen=True)
class Choice:
    """``backend`` is torch or onnx; ``reason`` says why, in a few words."""

    backend: str
    reason: str


def choose(
    backend: str, *, device: str | None, precision: str, random: bool = False, only_torch: str | None = None
) -> Choice:
    """The engine by the rule above, or the one that was asked for.

    Args:
        random: the network has no weights.
        only_torch: what was asked for that only torch can do.

    Raises:
        UserError: unknown names, or two wishes that no engine fulfils together.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}: one of {', '.join(BACKENDS)}")
    known = [name for names in PRECISIONS.values() for name in names]
    if precision not in known:
        raise UserError(f"unknown precision {precision!r}: one of {', '.join(dict.fromkeys(known))}")
    choice = Choice(backend, "asked for") if backend != "auto" else _rule(device, precision, random, only_torch)
    if precision not in PRECISIONS[choice.backend]:
        other = next(name for name, precisions in PRECISIONS.items() if precision in precisions)
        raise UserError(f"--precision {precision} needs --backend {other}")
    if choice.backend == "onnx" and only_torch:
        raise UserError(f"{only_torch} needs --backend torch")
    if choice.backend == "onnx" and random:
        raise UserError("the ONNX backend runs exported weights: a random network needs --backend torch")
    return choice


def _rule(device: str | None, precision: str, random: bool, only_torch: str | None) -> Choice:
    if only_torch:
        return Choice("torch", f"for {only_torch}")
    if precision != "fp32":
        return next(Choice(name, f"for {precision}") for name, known in PRECISIONS.items() if precision in known)
    if random:
        return Choice("torch", "random weights")
    if device not in (None, "cpu"):
        return Choice("torch", f"for {device}")
    if device is None and gpu_in_sight():
        return Choice("torch", "a GPU is in sight")
    if missing := [name for name in ("onnxruntime", "onnx", "onnxscript") if find_spec(name) is None]:
        return Choice("torch", f"{missing[0]} is not installed; {_INSTALL} is faster on a CPU")
    return Choice("onnx", "the fastest on a CPU")


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
