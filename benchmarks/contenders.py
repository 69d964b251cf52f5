"""One contender of `extraction.py`, in a process of its own with the Python of its own environment.

    python benchmarks/contenders.py KIND WORK      # requests on stdin, a JSON object per line

A request is {"setting": {...}, "out": PATH, "vectors": PATH}. Its response is {"seconds": ...}, and the embeddings are
at "vectors" as .npy, or it is {"error": ...}. WORK is the folder that `extraction.py` fills: the images, the model in
every format that a peer reads, and `work.json`. The set-up before the first photograph (loading, compiling, one batch
to warm up) is not timed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Run = Callable[[list[Path], Path], Vectors]  # photographs and an output path -> embeddings


class Work:
    """The folder WORK: its `work.json` and its images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[str, Any] = json.loads((folder / "work.json").read_text())
        self.images = sorted((folder / "images").iterdir())


def zoo(work: Work, setting: dict[str, Any]) -> Run:
    """`zoo extract`, from image files to committed shards with a manifest."""
    from zoo.extraction.extract import run_extraction
    from zoo.extraction.fingerprint import ExtractionConfig
    from zoo.transforms.limits import DecodeOptions

    embedder = _embedder(work, setting)
    config = ExtractionConfig(batch_size=setting["batch"], decode=DecodeOptions(decode=setting.get("decode", "exact")))

    def run(_: list[Path], out: Path) -> Vectors:
        import pyarrow.parquet as pq

        run_extraction(work.folder / "images", out, model=embedder, config=config)
        shards = sorted(out.glob("embeddings-*.parquet"))
        return np.concatenate([np.stack(pq.read_table(shard)["embedding"].to_numpy()) for shard in shards])

    embedder.embed_pixels(np.zeros((setting["batch"], *(work.said["side"],) * 2, 3), np.uint8))
    return run


def limit(work: Work, setting: dict[str, Any]) -> Run:
    """The backend's forward pass alone, on decoded pixels; nothing is written."""
    embedder, size = _embedder(work, setting), setting["batch"]
    pixels = np.load(work.folder / "pixels.npy")
    embedder.embed_pixels(pixels[:size])

    def run(_: list[Path], __: Path) -> Vectors:
        return np.concatenate([embedder.embed_pixels(pixels[n : n + size]) for n in range(0, len(pixels), size)])

    return run


def _embedder(work: Work, setting: dict[str, Any]) -> Any:
    from zoo.api import load

    precision = setting.get("precision", "fp32")
    if setting["engine"] == "openvino":
        file = "int8" if precision == "int8" else "fp32"
        return load(work.folder / f"{file}.onnx", backend="openvino", precision=precision)
    if setting["engine"] == "onnx":
        return load(work.folder / f"{precision}.onnx", device=work.said["onnx_device"])
    return load(work.folder / "encoder.safetensors", device=work.said["device"], precision=precision)


def timm(work: Work, setting: dict[str, Any]) -> Run:
    """A typical script: DataLoader, network, one file of embeddings at the end; ``compile`` chooses inductor's mode."""
    import torch
    from PIL import Image, ImageOps
    from timm import create_model
    from timm.data import create_transform, resolve_data_config
    from torch.utils.data import DataLoader, Dataset

    class Photos(Dataset[torch.Tensor]):
        def __init__(self, paths: list[Path], transform: Any) -> None:
            self._paths, self._transform = paths, transform

        def __len__(self) -> int:
            return len(self._paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            with Image.open(self._paths[index]) as image:
                tensor: torch.Tensor = self._transform(ImageOps.exif_transpose(image).convert("RGB"))
            return tensor

    device, size = work.said["device"], setting["batch"]
    memory_format = torch.channels_last if setting["channels_last"] else torch.contiguous_format
    model = create_model(f"local-dir:{work.folder / 'timm'}", pretrained=True).eval().to(device)
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    model = model.to(memory_format=memory_format)
    if mode := setting.get("compile"):
        import torch._inductor.config

        torch._inductor.config.freezing = mode == "freezing"  # weights become constants, batch norms are folded
        model = torch.compile(model, dynamic=True)
    precision = torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=setting.get("precision") == "bf16")

    def run(paths: list[Path], out: Path) -> Vectors:
        loader = DataLoader(
            Photos(paths, transform), size, num_workers=setting["workers"], pin_memory=device.startswith("cuda")
        )
        embeddings = []
        with torch.inference_mode(), precision:
            for batch in loader:
                x = batch.to(device, non_blocking=True, memory_format=memory_format)
                embeddings.append(model(x).float().cpu().numpy())
        result: Vectors = np.concatenate(embeddings)
        np.save(out, result)
        return result

    with torch.inference_mode(), precision:
        for n in (size, max(1, len(work.images) % size or size)):
            model(
                torch.zeros(n, 3, work.said["side"], work.said["side"], device=device).to(memory_format=memory_format)
            )
    return run


def transformers(work: Work, setting: dict[str, Any]) -> Run:
    """The pipeline `image-feature-extraction` with pooling and its own preprocessing."""
    import torch
    from transformers import pipeline

    extract = pipeline(
        "image-feature-extraction", model=str(work.folder / "timm"), device=torch.device(work.said["device"])
    )

    def run(paths: list[Path], _: Path) -> Vectors:
        found = extract([str(path) for path in paths], batch_size=setting["batch"], pool=True)
        return np.asarray(found, np.float32).reshape(len(paths), -1)

    run(work.images[:2], work.folder)
    return run


def img2vec(work: Work, setting: dict[str, Any]) -> Run:
    """Img2Vec with torchvision's network, in batches, with its own preprocessing (no crop)."""
    os.environ["TORCH_HOME"] = str(
        work.folder / "torch_home"
    )  # holds our weights where torchvision would download its own
    from img2vec_pytorch import Img2Vec
    from PIL import Image

    size = setting["batch"]
    extract = Img2Vec(model=work.said["torchvision"], cuda=work.said["device"].startswith("cuda"))

    def run(paths: list[Path], _: Path) -> Vectors:
        rows = []
        for n in range(0, len(paths), size):
            images = [Image.open(path).convert("RGB") for path in paths[n : n + size]]
            rows.append(np.asarray(extract.get_vec(images), np.float32).reshape(len(images), -1))
        return np.concatenate(rows)

    run(work.images[:2], work.folder)
    return run


def fastembed(work: Work, setting: dict[str, Any]) -> Run:
    """ImageEmbedding with the same network as an ONNX file and its own preprocessing."""
    from fastembed import ImageEmbedding

    extract = ImageEmbedding(
        "Qdrant/resnet50-onnx", specific_model_path=str(work.folder / "fastembed"), local_files_only=True
    )

    def run(paths: list[Path], _: Path) -> Vectors:
        found = extract.embed([str(path) for path in paths], batch_size=setting["batch"])
        return np.stack(list(found)).astype(np.float32).reshape(len(paths), -1)

    run(work.images[:2], work.folder)
    return run


KINDS: dict[str, Callable[[Work, dict[str, Any]], Run]] = {
    "zoo": zoo,
    "limit": limit,
    "timm": timm,
    "transformers": transformers,
    "img2vec": img2vec,
    "fastembed": fastembed,
}


def main() -> None:
    """Answer requests until stdin ends."""
    kind, work = sys.argv[1], Work(Path(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    ready: dict[str, Run] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        out, key = Path(asked["out"]), json.dumps(asked["setting"], sort_keys=True)
        try:
            if key not in ready:
                ready[key] = KINDS[kind](work, asked["setting"])
            if asked.get("prepare"):
                answer: dict[str, Any] = {}
            else:
                start = time.perf_counter()
                vectors = ready[key](work.images, out)
                answer = {"seconds": time.perf_counter() - start}
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(out) if out.is_dir() else out.unlink()
                np.save(asked["vectors"], vectors)
        except Exception as error:  # a peer may fail in any way: it is reported and left out
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the zoo of this checkout
    main()
