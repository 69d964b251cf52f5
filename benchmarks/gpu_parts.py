"""The parts of ``gpu.sh``: each measures one thing on a GPU, in a process of its own, and writes JSON as it goes.

    python benchmarks/gpu_parts.py PART --json OUT/PART.json [--device cpu --tiny]

- ``forward``: a ResNet-50 alone at 224 pixels, random weights, on pixels that are on the device: fp32, bf16, fp16,
  eager, compiled, as a CUDA graph.
- ``decode``: images/s of reading nothing but decoding 12-megapixel JPEGs: on the cores in full, DCT-scaled, and by
  torchvision's decoder on the GPU; and of small JPEGs.
- ``streams``: uint8 pixels in host memory to embeddings in host memory: one batch after the other (as ``zoo extract``
  does today), and overlapped with pinned memory and streams; bf16 and fp16, with a CUDA graph, compiled.
- ``files``: JPEG files to embeddings, ``zoo extract`` against timm with a DataLoader; the lesser of ``forward`` and
  ``decode`` is what can be reached.
- ``images``: makes images for the training steps.
- ``providers``: the exported ONNX file with ONNX Runtime's providers for CUDA and TensorRT.

What is not installed, or fails, is a line with its reason: the other lines go on. ``--device cpu --tiny`` rehearses all
of it in a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from cpu import facts
from numpy.typing import NDArray
from PIL import Image

_PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


class Results:
    """The lines of one part; the file is written after each, because the part can be stopped at any time."""

    def __init__(self, path: Path, device: str, tiny: bool) -> None:
        self._path = path
        on_gpu = device.startswith("cuda")
        self._contents: dict[str, Any] = {
            "command": " ".join(["benchmarks/gpu_parts.py", *sys.argv[1:]]),
            "gpu": torch.cuda.get_device_name() if on_gpu else None,
            "torch": torch.__version__,
            "machine": facts(),
            "tiny": tiny,
            "rows": [],
        }

    def add(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure and write one line; an error is its reason."""
        started = time.monotonic()
        try:
            found = measure()
        except Exception as error:  # whatever a missing library or a driver raises, the next line goes on
            found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        row = {"name": name, **found, "took_seconds": round(time.monotonic() - started, 1)}
        self._contents["rows"].append(row)
        self._path.write_text(json.dumps(self._contents, indent=1) + "\n")
        print(json.dumps(row), flush=True)


class Part:
    """What all parts share: the device, the sizes, and the network."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device, self.tiny = arguments.device, arguments.tiny
        self.cuda = self.device.startswith("cuda")
        self.size = 32 if self.tiny else 224
        self.batch = 4 if self.tiny else 256
        self.batches = 3 if self.tiny else 30
        self.data: Path = arguments.data
        self.results = Results(arguments.json, self.device, self.tiny)

    def engine(self, precision: str = "fp32") -> Any:
        """Return the torch engine of a network with random weights: a ResNet-50, a small one for the rehearsal."""
        import zoo

        return zoo.load("byol_r18_mini" if self.tiny else "byol_r50.random", device=self.device, backend="torch",
                        precision=precision).engine  # fmt: skip

    def pixels(self) -> NDArray[np.uint8]:
        """Return a batch of pixels."""
        draws = np.random.default_rng(0)
        return draws.integers(0, 256, (self.batch, self.size, self.size, 3), dtype=np.uint8)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.cuda:
            torch.cuda.synchronize()

    def rate(self, run: Callable[[], object], images: int, rounds: int = 3) -> dict[str, Any]:
        """Return the median images/s of three rounds after one to warm up, and its range."""
        run()
        self.synchronize()
        rates = []
        for _ in range(rounds):
            started = time.perf_counter()
            run()
            self.synchronize()
            rates.append(images / (time.perf_counter() - started))
        return {
            "images_per_second": round(statistics.median(rates), 1),
            "range": [round(min(rates), 1), round(max(rates), 1)],
        }

    def compiled(self, network: Any) -> Any:
        """Return the network compiled for one shape; the rehearsal only traces it."""
        backend = {"backend": "eager"} if self.tiny else {"mode": "max-autotune-no-cudagraphs"}
        return torch.compile(network, dynamic=False, **backend)


def forward(part: Part) -> None:
    """Measure the network alone."""
    pixels = torch.from_numpy(part.pixels()).to(part.device)
    for precision in ("fp32", "bf16", "fp16"):
        engine = part.engine("bf16" if precision == "bf16" else "fp32")
        network = engine.network()
        dtype = torch.float16 if precision == "fp16" else None
        if dtype is not None:
            network = network.to(dtype)

        def step(run: Any, engine: Any = engine, dtype: Any = dtype) -> torch.Tensor:
            with torch.inference_mode(), engine.autocast():
                x = engine.normalised(pixels)
                return run(x if dtype is None else x.to(dtype))

        def rate(run: Any, step: Any = step) -> dict[str, Any]:
            return part.rate(lambda: [step(run) for _ in range(part.batches)], part.batches * part.batch)

        def graph(step: Any = step, network: Any = network) -> dict[str, Any]:
            if not part.cuda:
                raise RuntimeError("a CUDA graph needs a GPU")
            step(network)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                step(network)
            return part.rate(lambda: [captured.replay() for _ in range(part.batches)], part.batches * part.batch)

        part.results.add(f"{precision} eager", lambda rate=rate, network=network: rate(network))
        part.results.add(f"{precision} graph", graph)
        if precision != "fp32":
            part.results.add(f"{precision} compiled", lambda rate=rate, network=network: rate(part.compiled(network)))


def photographs(folder: Path, count: int, megapixels: float) -> list[Path]:
    """Write ``count`` JPEGs of the examples' photographs, enlarged to ``megapixels`` where that is above zero."""
    paths = []
    sources = sorted(_PHOTOS.glob("*.jpg"))
    for number in range(count):
        path = folder / f"{number:05d}.jpg"
        if number < len(sources):
            image = Image.open(sources[number]).convert("RGB")
            if megapixels:
                scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
                image = image.resize(
                    (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
                )
            image.save(path, quality=90)
        else:
            path.write_bytes(paths[number % len(sources)].read_bytes())
        paths.append(path)
    return paths


def decode(part: Part) -> None:
    """Measure decoding and resizing alone."""
    from zoo.transforms.decode import decoded
    from zoo.transforms.limits import DecodeOptions
    from zoo.transforms.preprocess import Preprocessing

    preprocessing = Preprocessing(part.size, part.size * 8 // 7)
    cores = len(os.sched_getaffinity(0))
    for megapixels in (0.0, 0.5 if part.tiny else 12.0):
        with tempfile.TemporaryDirectory() as text:
            count = 4 if part.tiny else (64 if megapixels else 512)
            data = [path.read_bytes() for path in photographs(Path(text), count, megapixels)]
        kind = f"{megapixels:g} megapixels" if megapixels else "as they are"

        def on_cores(options: DecodeOptions, data: list[bytes] = data) -> dict[str, Any]:
            def one(jpeg: bytes) -> object:
                with decoded(jpeg, 10**8, options, reduction=preprocessing.reduction) as image:
                    return preprocessing.pixels(image)

            with ThreadPoolExecutor(cores) as pool:
                return part.rate(lambda: list(pool.map(one, data)), len(data)) | {"cores": cores}

        def on_gpu(data: list[bytes] = data) -> dict[str, Any]:
            import torchvision.transforms.v2.functional as F
            from torchvision.io import ImageReadMode, decode_jpeg

            jpegs = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in data]

            def run() -> None:
                for first in range(0, len(jpegs), 32):
                    images = decode_jpeg(jpegs[first : first + 32], mode=ImageReadMode.RGB, device=part.device)
                    for image in images:
                        F.center_crop(F.resize(image, [preprocessing.resize], antialias=True), [part.size])

            return part.rate(run, len(data))

        part.results.add(f"cores exact, {kind}", lambda run=on_cores: run(DecodeOptions()))
        part.results.add(f"cores scaled, {kind}", lambda run=on_cores: run(DecodeOptions(decode="scaled")))
        part.results.add(f"torchvision on {part.device}, {kind}", on_gpu)


def streams(part: Part) -> None:
    """Measure host memory to host memory."""
    from zoo.inference.streams import embed_overlapped

    pixels, images = part.pixels(), part.batches * part.batch

    def batches() -> Iterator[NDArray[np.uint8]]:
        return (pixels for _ in range(part.batches))

    for precision in ("bf16", "fp16"):
        engine = part.engine("bf16" if precision == "bf16" else "fp32")
        if precision == "bf16":
            part.results.add(
                "bf16 one after the other", lambda e=engine: part.rate(lambda: [e(p) for p in batches()], images)
            )
        dtype = torch.float16 if precision == "fp16" else None
        network = engine.network() if dtype is None else engine.network().to(dtype)
        for name, options in (
            ("overlapped", {}),
            ("overlapped, graph", {"graph": True}),
            ("overlapped, compiled", {"c": 1}),
        ):

            def overlapped(
                options: Any = options, engine: Any = engine, network: Any = network, dtype: Any = dtype
            ) -> Any:
                run = part.compiled(network) if "c" in options else network
                graph = "graph" in options
                # the slots and the capture are made in the round that warms up only if the generator is kept: so the
                # time of one capture is in each round, 30 batches long
                return part.rate(
                    lambda: list(embed_overlapped(engine, batches(), part.batch, part.size, dtype=dtype, graph=graph,
                                                  network=run)), images,
                )  # fmt: skip

            part.results.add(f"{precision} {name}", overlapped)


def files(part: Part) -> None:
    """Measure files to embeddings, against timm with a DataLoader."""
    import timm
    from timm.data import create_transform, resolve_data_config
    from torch.utils.data import DataLoader, Dataset

    import zoo

    model = "byol_r18_mini" if part.tiny else "byol_r50.random"
    workers = len(os.sched_getaffinity(0))
    for megapixels in (0.0, 0.5 if part.tiny else 12.0):
        kind = f"{megapixels:g} megapixels" if megapixels else "as they are"
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text) / "photos"
            folder.mkdir()
            paths = photographs(folder, 6 if part.tiny else (256 if megapixels else 2048), megapixels)
            out = iter(range(10**6))

            def ours(
                decode: Any, folder: Path = folder, out: Any = out, text: str = text, paths: Any = paths
            ) -> dict[str, Any]:
                def run() -> None:
                    where = Path(text) / f"out{next(out)}"
                    zoo.extract(
                        folder, where, model=model, device=part.device, backend="torch", precision="bf16", decode=decode
                    )

                return part.rate(run, len(paths), rounds=2)

            class Photos(Dataset[torch.Tensor]):
                def __init__(self, transform: Any, paths: list[Path] = paths) -> None:
                    self.paths, self.transform = paths, transform

                def __len__(self) -> int:
                    return len(self.paths)

                def __getitem__(self, index: int) -> torch.Tensor:
                    with Image.open(self.paths[index]) as image:
                        tensor: torch.Tensor = self.transform(image.convert("RGB"))
                        return tensor

            def theirs(paths: Any = paths, photos: Any = Photos) -> dict[str, Any]:
                network = timm.create_model("resnet18" if part.tiny else "resnet50", num_classes=0).eval()
                network = network.to(part.device, memory_format=torch.channels_last)
                config = resolve_data_config({"input_size": (3, part.size, part.size)}, model=network)
                transform = create_transform(**config, is_training=False)

                def run() -> None:
                    loader = DataLoader(
                        photos(transform), part.batch, num_workers=0 if part.tiny else workers, pin_memory=part.cuda
                    )
                    autocast = torch.autocast(part.device.partition(":")[0], torch.bfloat16)
                    with torch.inference_mode(), autocast:
                        for batch in loader:
                            moved = batch.to(part.device, non_blocking=True, memory_format=torch.channels_last)
                            network(moved).float().cpu()

                return part.rate(run, len(paths), rounds=2)

            part.results.add(f"zoo extract bf16, exact, {kind}", lambda ours=ours: ours("exact"))
            part.results.add(f"zoo extract bf16, scaled, {kind}", lambda ours=ours: ours("scaled"))
            part.results.add(f"timm + DataLoader bf16, {workers} workers, {kind}", theirs)


def providers(part: Part) -> None:
    """Measure ONNX Runtime's providers on the exported network."""
    import zoo
    from zoo.export.export import Variant, export_onnx

    pixels = part.pixels()
    with tempfile.TemporaryDirectory() as text:
        path = Path(text) / "network.onnx"

        def export() -> dict[str, Any]:
            # a network with random weights has no file to export: take the bundled one for the rehearsal
            name = "byol_r18_mini" if part.tiny else str(_random_file(Path(text)))
            export_onnx(zoo.load(name, device="cpu"), path, Variant("crop", "fp32"))
            return {"bytes": path.stat().st_size}

        part.results.add("export", export)
        for name in ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"):
            if name.startswith("CPU") and not part.tiny:
                continue

            def run(name: str = name) -> dict[str, Any]:
                import onnxruntime

                if hasattr(onnxruntime, "preload_dlls") and part.cuda:
                    onnxruntime.preload_dlls()  # CUDA's libraries come with torch
                if name not in onnxruntime.get_available_providers():
                    raise RuntimeError(f"this onnxruntime has no {name}: {onnxruntime.get_available_providers()}")
                session = onnxruntime.InferenceSession(path, providers=[name])
                if session.get_providers()[0] != name:
                    raise RuntimeError(f"{name} could not start: the session runs on {session.get_providers()[0]}")
                feed = {session.get_inputs()[0].name: pixels}
                count = max(2, part.batches // 3)
                return part.rate(lambda: [session.run(None, feed) for _ in range(count)], count * part.batch)

            part.results.add(name, run)


def _random_file(folder: Path) -> Path:
    """Save a ResNet-50 with random weights (seed 0)."""
    from zoo.hub.exported_encoder import save_encoder
    from zoo.models.registry import ARCHITECTURES
    from zoo.models.resnet import build_encoder, encoder_state
    from zoo.transforms.preprocess import Preprocessing

    torch.manual_seed(0)
    path = folder / "random.safetensors"
    about = {
        "architecture": "r50",
        "method": "byol",
        "licence": "Apache-2.0",
        "preprocessing": Preprocessing(224, 256).to_json(),
    }
    save_encoder(path, encoder_state(build_encoder(ARCHITECTURES["r50"])), about)
    return path


def images(part: Part) -> None:
    """Make the images of the training steps, in folders of ten classes."""

    def make() -> dict[str, Any]:
        draws, side, count = np.random.default_rng(0), 48 if part.tiny else 300, 40 if part.tiny else 1024
        for number in range(count):
            folder = part.data / f"{number % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            coarse = draws.integers(
                0, 256, (8, 8, 3), dtype=np.uint8
            )  # noise alone would compress worse than photographs
            Image.fromarray(coarse).resize((side, side)).save(folder / f"{number:05d}.jpg", quality=90)
        return {"images": count}

    part.results.add("images", make)


PARTS = {
    "images": images,
    "forward": forward,
    "decode": decode,
    "streams": streams,
    "files": files,
    "providers": providers,
}


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--json", type=Path, required=True, help="where to write the lines")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the part `images` writes")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to rehearse")
    arguments = parser.parse_args()
    PARTS[arguments.part](Part(arguments))


if __name__ == "__main__":
    main()
