"""ONNX export with a parity check: a file whose embeddings differ from torch's is never written.

Steps: trace the network, convert its precision, add preprocessing and l2 norm, convert to the opset, add metadata,
compare with torch, write one self-contained file. ``onnx_graph.py`` builds the graph, ``quantize.py`` converts to int8.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import UserError
from zoo.export.onnx_graph import OPSET, OPSETS, PIXELS, assemble, half, trace
from zoo.inference.embedder import Embedder
from zoo.inference.images import as_rgb
from zoo.inference.onnx_backend import FORMAT, METADATA, WEIGHT_BITS, OnnxEngine, import_onnxruntime
from zoo.inference.parity import shipped_photographs, smallest_cosine
from zoo.models import registry
from zoo.system.atomic_files import atomic_write_bytes, make_folder, sha256_file

if TYPE_CHECKING:
    from onnx import ModelProto
    from PIL.Image import Image

PRECISIONS = ("fp32", "fp16", "int8")
# Allowed max|difference| / max|reference| from torch. Where the graph resizes, about one pixel in ten thousand differs
# by 1/255 from Pillow's, and one value in two hundred from TensorFlow's at the worst sizes.
PARITY = {("fp32", "any"): 2e-3, ("fp32", "crop"): 1e-4, ("fp32", "normalised"): 1e-4}
PARITY |= {("fp16", pixels): 5e-3 for pixels in PIXELS}
INT8_COSINE = 0.995  # lower limit between int8 and torch, on photographs that int8 was not calibrated on

_MAX_BYTES = 2**31 - 1  # size limit of a protobuf message
_MAX_CALIBRATION = 512  # photographs; the ranges settle long before


@dataclass(frozen=True)
class Variant:
    """The kind of ONNX file.

    Attributes:
        pixels: input of the graph: ``any`` (uint8 [batch, height, width, 3] of any size, the graph resizes and crops),
            ``crop`` (uint8 [batch, S, S, 3], resized and cropped already) or ``normalised`` (float32 [batch, 3, S, S]).
        precision: precision of the network: ``fp32``, ``fp16``, or ``int8`` (static, per channel).
        opset: ONNX opset, in ``OPSETS``.

    Raises:
        UserError: a value is not one of these.
    """

    pixels: str = "any"
    precision: str = "fp32"
    opset: int = OPSET

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise UserError(f"unknown pixels {self.pixels!r}: one of {', '.join(PIXELS)}")
        if self.precision not in PRECISIONS:
            raise UserError(f"an ONNX file is {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.opset not in OPSETS:
            raise UserError(f"opset {self.opset}: from {OPSETS[0]} to {OPSETS[-1]} are supported")


@dataclass(frozen=True)
class Exported:
    """A finished file.

    Attributes:
        bytes: size of the file.
        parity: largest relative error against torch on the photographs of the parity check.
        cosine: smallest cosine between an embedding and torch's, on the same photographs.
        photographs: number of these photographs.
    """

    path: Path
    sha256: str
    bytes: int
    variant: Variant
    parity: float
    cosine: float
    photographs: int


def export_onnx(
    embedder: Embedder,
    out: Path,
    variant: Variant | None = None,
    *,
    photographs: Sequence[Path] = (),
    calibrate: Path | None = None,
    core: ModelProto | None = None,
    weight_bits: int = WEIGHT_BITS,
    report: Callable[[str], None] | None = None,
) -> Exported:
    """Write one self-contained ONNX file: pixels in, ``embedding`` float32 [batch, D] out.

    The graph ends in an l2 norm if ``embedder.normalize``. Its metadata holds model, licence, source, preprocessing and
    the weights' sha256.

    Args:
        variant: default: uint8 pixels of any size, fp32.
        photographs: photographs for the parity check; default: four that ship with the package (two of them for int8
            without ``calibrate``).
        calibrate: folder of photographs that int8 is calibrated on; default: the other two.
        core: result of ``trace_core`` for this embedder, to trace it once for several variants.
        report: called with a line at the beginning of each step; they take seconds to minutes.

    Raises:
        UserError: onnx is not installed, a photograph cannot be read, or the file differs from torch by more than
            ``PARITY`` or ``INT8_COSINE`` allow. ``out`` then stays unchanged.
    """
    import_onnxruntime()
    variant = variant or Variant()
    if calibrate and variant.precision != "int8":
        raise UserError(f"--calibrate is for --precision int8, not {variant.precision}")
    calibration = _photographs_in(calibrate) if calibrate else None  # refused before the network is traced
    say = report or (lambda line: None)
    # the network, in its precision
    shipped = shipped_photographs()
    if core is None:
        say("tracing the network")
        core = trace_core(embedder)
    extra: dict[str, object] = {}
    if variant.precision == "fp16":
        core = half(core)
    elif variant.precision == "int8":
        say("measuring the ranges of int8")
        measured = calibration or shipped[::2]
        photographs = photographs or (shipped if calibrate else shipped[1::2])
        core = _int8(core, embedder, measured, weight_bits)
        extra["weight_bits"] = weight_bits
        extra["calibration"] = {"photographs": len(measured), "folder": calibrate.name if calibrate else "shipped"}
    # the whole graph, with its metadata
    say("writing the graph")
    images = [as_rgb(path) for path in photographs or shipped]
    model = assemble(
        core, embedder.preprocessing, pixels=variant.pixels, normalize=embedder.normalize, opset=variant.opset
    )
    data = _serialised(_with_metadata(model, embedder, variant, extra))
    # the parity check, then the file
    say("comparing it with torch")
    with tempfile.TemporaryDirectory() as scratch:
        candidate = Path(scratch) / "candidate.onnx"
        atomic_write_bytes(candidate, data)
        error, cosine = _differences(OnnxEngine(candidate), embedder, images, variant.pixels)
    _require_parity(variant, error, cosine)
    make_folder(out.parent)
    atomic_write_bytes(out, data)
    return Exported(out, sha256_file(out), len(data), variant, error, cosine, len(images))


def trace_core(embedder: Embedder) -> ModelProto:
    """Trace the network alone: normalised float32 [batch, 3, S, S] -> [batch, D]."""
    import torch

    module = copy.deepcopy(embedder.model).cpu().float().to(memory_format=torch.contiguous_format).eval()
    return trace(module, embedder.preprocessing.input_size, embedder.preprocessing.channels)


def _int8(core: ModelProto, embedder: Embedder, photographs: Sequence[Path], weight_bits: int) -> ModelProto:
    from zoo.export.quantize import calibration_pixels, quantize

    pixels = calibration_pixels([as_rgb(path) for path in photographs], embedder.preprocessing)
    return quantize(core, embedder.preprocessing.normalise(pixels), weight_bits)


def _photographs_in(folder: Path) -> list[Path]:
    from zoo.transforms.decode import EXTENSIONS

    if not folder.is_dir():
        raise UserError(f"no folder of photographs at {folder}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    if not found:
        raise UserError(f"no photographs in {folder}: --calibrate needs some, 50 are plenty")
    return found[:: -(-len(found) // _MAX_CALIBRATION)]


def _with_metadata(model: ModelProto, embedder: Embedder, variant: Variant, extra: dict[str, object]) -> ModelProto:
    """Add one JSON for ``zoo.inference.onnx_backend``, and readable entries for people; in place."""
    # Our own section, which zoo.load reads back.
    info = embedder.weights_info
    preprocessing = embedder.preprocessing.to_json()
    own = {
        "format": FORMAT,
        "about": info,
        "preprocessing": preprocessing,
        "normalize": embedder.normalize,
        "pixels": variant.pixels,
        "precision": variant.precision,
        **extra,
    }
    # Plain entries for other readers of the file.
    entries = {
        METADATA: json.dumps(own, sort_keys=True),
        "model": info.get("model", ""),
        "licence": info.get("licence", ""),
        "source": info.get("source") or _source(info.get("model", "")),
        "weights_sha256": info.get("weights_sha256") or "",
        "preprocessing": json.dumps(preprocessing, sort_keys=True),
    }
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=str(value))
    return model


def _source(model: str) -> str:
    name, tag = registry.split_name(model)
    spec = registry.MODELS.get(name)
    weights = spec.weights.get(tag or "") if spec else None
    return weights.source if weights else "a local file"


def _serialised(model: ModelProto) -> bytes:
    if model.ByteSize() > _MAX_BYTES:
        raise UserError(
            f"the graph has {model.ByteSize() / 1e9:.1f} GB, one ONNX file holds 2.1: try --precision fp16 or int8"
        )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _differences(engine: OnnxEngine, embedder: Embedder, images: list[Image], pixels: str) -> tuple[float, float]:
    """Return the largest relative error and the smallest cosine against torch.

    The images run one by one and as a batch, which finds a graph whose batch size is fixed.
    """
    # Torch's embeddings of the same photographs are the reference.
    crops = np.stack([embedder.preprocessing.pixels(image) for image in images])
    reference = embedder.embed_pixels(crops)
    if not reference.any():
        raise UserError("the network gives zeros for every photograph: its weights are wrong, nothing written")
    # Feed the graph what it takes: one row at a time, then a batch.
    if pixels == "any":
        whole = [embedder.preprocessing.channels_of(image)[None] for image in images]
        single = np.concatenate([engine.run(pixels_of_one) for pixels_of_one in whole])
        twice = np.repeat(whole[0], 2, axis=0)
        batch, expected = engine.run(twice), reference[[0, 0]]
    else:
        inputs = crops if pixels == "crop" else embedder.preprocessing.normalise(crops)
        single = np.concatenate([engine.run(row[None]) for row in inputs])
        batch, expected = engine.run(inputs), reference
    # Compare both runs with the reference.
    ours, torchs = np.concatenate([single, batch]), np.concatenate([reference, expected])
    return float(np.abs(ours - torchs).max() / np.abs(reference).max()), smallest_cosine(ours, torchs)


def _require_parity(variant: Variant, error: float, cosine: float) -> None:
    if variant.precision == "int8":
        if not cosine >= INT8_COSINE:
            raise UserError(
                f"int8 differs from torch: cosine {cosine:.4f} on photographs it was not calibrated on, at least "
                f"{INT8_COSINE} is needed: nothing written; give --calibrate photographs like yours, or export fp32"
            )
    elif not error <= (allowed := PARITY[variant.precision, variant.pixels]):
        raise UserError(
            f"the exported graph differs from torch by {error:.1e} (allowed {allowed:.0e}): nothing written"
        )
