"""ONNX export behind a parity gate: a file that differs from the torch module never gets its name."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.embed import Embedder, as_rgb
from zoo.errors import UserError
from zoo.files import atomic_write_bytes, sha256_file
from zoo.onnx_engine import METADATA, OnnxEngine, import_onnxruntime

if TYPE_CHECKING:
    import torch

OPSET = 20  # the newest that every onnxruntime since 1.17 runs
PARITY = 1e-4  # relative, max|difference| / max|reference|
_PARITY_PHOTOS = Path(__file__).parent / "bundled" / "parity"


@dataclass(frozen=True)
class Exported:
    """A finished file.

    Attributes:
        parity: largest relative error against torch on the parity photographs.
        photographs: how many there were.
    """

    path: Path
    sha256: str
    bytes: int
    parity: float
    photographs: int


def export_onnx(embedder: Embedder, out: Path, *, photographs: Sequence[Path] = ()) -> Exported:
    """Writes ``out``: input ``pixels`` uint8 [batch, H, W, 3], output ``embedding`` float32 [batch, D].

    Normalisation is inside the graph, and the l2 norm where ``embedder.normalize``; H and W are the preprocessing's
    input size. One self-contained file, with a JSON of model, licence and preprocessing in its metadata.

    Args:
        photographs: for the parity gate; default: four that ship with the package.

    Raises:
        UserError: onnx is not installed, a photograph cannot be read, or the file differs from torch by more than
            ``PARITY``; ``out`` is then as it was.
    """
    import_onnxruntime()
    photographs = list(photographs) or sorted(_PARITY_PHOTOS.glob("*.jpg"))
    pixels = np.stack([embedder.preprocessing.pixels(as_rgb(p)) for p in photographs])
    model = _with_metadata(_trace(embedder, pixels), embedder)
    data = model.SerializeToString(deterministic=True)
    with tempfile.TemporaryDirectory() as scratch:
        candidate = Path(scratch) / "candidate.onnx"
        candidate.write_bytes(data)
        error = _largest_error(OnnxEngine(candidate), embedder, pixels)
    if not error <= PARITY:
        raise UserError(f"the exported graph differs from torch by {error:.1e} (allowed {PARITY:.0e}): nothing written")
    atomic_write_bytes(out, data)
    return Exported(out, sha256_file(out), len(data), error, len(photographs))


def _trace(embedder: Embedder, pixels: NDArray[np.uint8]) -> Any:
    """The graph as an ``onnx.ModelProto``."""
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("exporting needs onnx and onnxscript: pip install 'siamese-zoo[onnx]'") from None
    module = _pixels_to_embedding(embedder).eval()
    example = torch.from_numpy(pixels[:2])  # a batch of 1 would be taken for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            module,
            (example,),
            input_names=["pixels"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # only the legacy exporter returns None
    return program.model_proto


def _pixels_to_embedding(embedder: Embedder) -> torch.nn.Module:
    """uint8 [N, H, W, 3] -> float [N, D]; as ``Embedder.embed_pixels``, in float32 on the CPU."""
    import copy

    import torch
    import torch.nn.functional as F

    class PixelsToEmbedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(embedder.model).cpu().float().to(memory_format=torch.contiguous_format)
            self.mean = torch.tensor(embedder.preprocessing.mean).mul(255)[:, None, None]
            self.std = torch.tensor(embedder.preprocessing.std).mul(255)[:, None, None]

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            embedding = self.model((pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std)
            return F.normalize(embedding, dim=1) if embedder.normalize else embedding

    return PixelsToEmbedding()


def _with_metadata(model: Any, embedder: Embedder) -> Any:
    model.producer_name = "siamese-zoo"
    model.doc_string = ""
    for place in (model.graph.node, model.graph.input, model.graph.output, model.graph.value_info):
        for item in place:
            item.doc_string = ""
            del item.metadata_props[:]  # the exporter leaves stack traces with paths of this machine
    del model.metadata_props[:]
    about = {
        "about": embedder.about,
        "preprocessing": embedder.preprocessing.to_json(),
        "normalize": embedder.normalize,
    }
    entries = {METADATA: json.dumps(about, sort_keys=True), "licence": str(embedder.about.get("licence", ""))}
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return model


def _largest_error(engine: OnnxEngine, embedder: Embedder, pixels: NDArray[np.uint8]) -> float:
    """Over all photographs at once and one by one, so that the batch is shown to be dynamic."""
    reference = embedder.embed_pixels(pixels)
    single = np.concatenate([engine(pixels[n : n + 1]) for n in range(len(pixels))])
    difference = max(np.abs(engine(pixels) - reference).max(), np.abs(single - reference).max())
    return float(difference / np.abs(reference).max())
