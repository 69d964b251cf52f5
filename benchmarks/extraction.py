"""Speed of extraction against the usual tools, and against the backend's forward pass alone.

    python benchmarks/peers.py PEERS                                       # once: an environment per peer
    python benchmarks/extraction.py --photos DIR --model byol_r50.random --peers PEERS --json extraction.json

Every contender runs in a process of its own (see `contenders.py`). They take turns, round after round, on the same
photographs with the same network, and the median counts. Their set-up (loading, compiling, a first batch) is not timed.
`zoo` runs from image files to committed shards. `limit` is the forward pass of the same backend on decoded pixels. Of
`timm` with a DataLoader every combination of workers, batch size, memory format and compilation runs, and the fastest
counts. The report has the cosine of each contender's embeddings with torch's; it is lower where a contender has its own
preprocessing. For a GPU add --device cuda --onnx-device cuda. OpenVINO runs, too, where it is installed.
``--megapixels`` enlarges the photographs, for ``--scaled`` to be measured beside exact decoding. Instructions, cores
and load of the CPU are printed with the result: times without them say little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cpu
import numpy as np
import peers
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SAME = 0.9999  # smallest cosine of embeddings that are called the same
_SCALED = (("fp32", None), ("bf16", "bf16"), ("int8", "int8"))
SHIPPED = {path.name for path in (ROOT / "zoo" / "bundled" / "parity").glob("*.jpg")}  # some calibrate int8


class Contender:
    """A process of `contenders.py`."""

    def __init__(self, kind: str, python: Path, work: Path) -> None:
        command = [str(python), str(Path(__file__).with_name("contenders.py")), kind, str(work)]
        self._log = (work / f"{kind}.log").open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Return the response to a request; an error if the process died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the process ended"}')
        except BrokenPipeError:
            return {"error": "the process ended"}
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def prepare(args: argparse.Namespace, work: Path) -> NDArray[np.float32]:
    """Fill the folder that all contenders read; return the reference embeddings float32 [N, D]."""
    import torch
    from safetensors.torch import save_file

    from zoo.api import load
    from zoo.export.export import Variant, export_onnx, trace_core
    from zoo.hub.exported_encoder import save_encoder
    from zoo.hub.weights import locate
    from zoo.models import registry
    from zoo.models.resnet import encoder_state

    file = locate(args.model)
    embedder = load(args.model, device="cpu", backend="torch")
    # the peers resize with Pillow only: all contenders must do the same work
    embedder.preprocessing = transform = replace(embedder.preprocessing, resizing="pillow")
    images = work / "images"
    images.mkdir()
    paths = copies(args.photos, args.images, images, args.megapixels)

    key = next(k for k, a in registry.ARCHITECTURES.items() if a == file.architecture)
    about = {"architecture": key, "method": file.method, "licence": file.licence, "preprocessing": transform.to_json()}
    save_encoder(work / "encoder.safetensors", encoder_state(embedder.model), about)
    core = trace_core(embedder)
    for precision in ("fp32", "int8"):
        export_onnx(embedder, work / f"{precision}.onnx", Variant("crop", precision), core=core)

    (work / "timm").mkdir()
    state = {name: tensor.contiguous() for name, tensor in embedder.model.state_dict().items()}
    save_file(state, work / "timm" / "model.safetensors")
    size = transform.input_size
    pretrained = {
        "input_size": [3, size, size],
        "interpolation": transform.interpolation,
        "crop_pct": size / transform.resize,
        "crop_mode": "center",
        "mean": transform.mean,
        "std": transform.std,
        "num_classes": 0,
        "first_conv": "conv1",
        "classifier": "fc",
    }
    config = {
        "architecture": file.architecture.timm_name,
        "num_classes": 0,
        "num_features": file.architecture.num_features,
        "global_pool": "avg",
        "model_args": dict(file.architecture.model_args),
        "pretrained_cfg": pretrained,
    }
    (work / "timm" / "config.json").write_text(json.dumps(config))

    torchvision_name = file.architecture.timm_name
    if file.architecture.timm_name in ("resnet18", "resnet50"):
        _for_torchvision(file.architecture.timm_name, state, work / "torch_home" / "hub" / "checkpoints")

    (work / "fastembed").mkdir()
    export_onnx(embedder, work / "fastembed" / "model.onnx", Variant("normalised"), core=core)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": transform.resize},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": transform.mean,
        "image_std": transform.std,
    }
    (work / "fastembed" / "preprocessor_config.json").write_text(json.dumps(processor))

    pixels = np.stack([embedder.pixels(path) for path in paths])
    np.save(work / "pixels.npy", pixels)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    said = {"device": device, "onnx_device": args.onnx_device, "side": size, "torchvision": torchvision_name}
    (work / "work.json").write_text(json.dumps(said))
    return np.concatenate([embedder.embed_pixels(pixels[n : n + 16]) for n in range(0, len(pixels), 16)])


def _for_torchvision(name: str, state: dict[str, Any], checkpoints: Path) -> None:
    """Save our weights under the file names that torchvision downloads: img2vec takes no others."""
    import torch
    from torchvision.models import get_model_weights

    checkpoints.mkdir(parents=True)
    features = 512 if name == "resnet18" else 2048
    with_head = state | {"fc.weight": torch.zeros(1000, features), "fc.bias": torch.zeros(1000)}
    for weights in get_model_weights(name):
        torch.save(with_head, checkpoints / weights.url.rpartition("/")[2])


def copies(photos: Path, n: int, folder: Path, megapixels: float | None = None) -> list[Path]:
    """Copy the JPEGs of ``photos`` over and over into ``n`` files in ``folder``; return their sorted paths.

    With ``megapixels`` each is resized to so many, as a camera's JPEG of quality 90.

    JPEGs only, because a plain script clips 16-bit images and composites transparency over black. Photographs that
    calibrate int8 are left out.
    """
    sources = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    sources = [path for path in sources if path.name not in SHIPPED]
    paths = [folder / f"{i:06d}{sources[i % len(sources)].suffix}" for i in range(n)]
    for i, path in enumerate(paths):
        if i >= len(sources):
            shutil.copyfile(paths[i % len(sources)], path)
        elif megapixels is None:
            shutil.copyfile(sources[i], path)
        else:
            _enlarged(sources[i], path, megapixels)
    return paths


def _enlarged(source: Path, path: Path, megapixels: float) -> None:
    from PIL import Image

    with Image.open(source) as image:
        factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = (round(image.width * factor), round(image.height * factor))
        image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def settings(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return all settings to measure, by contender."""
    half = [{"precision": "bf16"}] if args.bf16 else []
    engines = [{"engine": "torch"}, {"engine": "onnx"}, {"engine": "onnx", "precision": "int8"}]
    engines += [{"engine": "torch"} | h for h in half]
    if find_spec("openvino"):
        engines += [{"engine": "openvino"} | p for p in ({}, {"precision": "bf16"}, {"precision": "int8"})]
    engines = [engine for engine in engines if not args.engines or engine["engine"] in args.engines]
    limit = [engine | {"batch": size} for engine, size in itertools.product(engines, args.batch_sizes)]
    ours = limit + [setting | {"decode": "scaled"} for setting in limit if args.scaled]
    eager = itertools.product(args.workers, args.batch_sizes, (False, True), [{}, *half])
    compiled = itertools.product(args.workers, args.batch_sizes[:1], ("default", "freezing"))
    timm = [{"workers": w, "batch": b, "channels_last": c, **h} for w, b, c, h in eager]
    timm += [{"workers": w, "batch": b, "channels_last": True, "compile": c} for w, b, c in compiled]
    plain = [{"batch": size} for size in args.batch_sizes[:1]]
    everything = {"zoo": ours, "limit": limit, "timm": timm} | dict.fromkeys(peers.REQUIREMENTS, plain)
    return {kind: found for kind, found in everything.items() if not args.only or kind in args.only}


def cosines(found: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """Return the smallest cosine of any row: raw, and after the reference's mean is subtracted, which is stricter."""
    a, b = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (found, reference))
    mean = b.mean(axis=0)
    lengths = np.linalg.norm(a - mean, axis=1) * np.linalg.norm(b - mean, axis=1)
    centred = ((a - mean) * (b - mean)).sum(axis=1) / np.maximum(lengths, 1e-12)
    return float((a * b).sum(axis=1).min()), float(centred.min())


def measure(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Return a row per contender and setting, with its images per second in every round."""
    reference = prepare(args, work)
    rows: list[dict[str, Any]] = []
    contenders: dict[str, Contender] = {}
    for kind, found in settings(args).items():
        python = Path(sys.executable)
        if kind in peers.REQUIREMENTS:
            python = peers.python_of(args.peers or Path("no-peers"), kind)
        if not python.exists():
            print(f"{kind}: no environment (--peers), left out", flush=True)
            continue
        contenders[kind] = Contender(kind, python.absolute(), work)
        for setting in found:
            answer = contenders[kind].ask(setting=setting, out=str(work / "none"), prepare=True)
            rows.append({"contender": kind, "setting": setting, "images_per_second": [], **answer})
            print(f"{kind} {setting}: {answer.get('error', 'ready')}", flush=True)
    vectors = work / "vectors.npy"
    for number in range(args.rounds):
        for row in rows:
            if "error" in row:
                continue
            question = {"setting": row["setting"], "out": str(work / "out"), "vectors": str(vectors)}
            answer = contenders[row["contender"]].ask(**question)
            if "error" in answer:
                row |= answer
                print(f"{row['contender']} {row['setting']}: {answer['error']}", flush=True)
                continue
            row["images_per_second"].append(round(args.images / answer["seconds"], 3))
            found = np.load(vectors)
            same_shape = found.shape == reference.shape
            row["cosine"], row["cosine_centred"] = cosines(found, reference) if same_shape else (0.0, 0.0)
            print(
                f"round {number + 1}, {row['contender']} {row['setting']}: {row['images_per_second'][-1]}", flush=True
            )
    for contender in contenders.values():
        contender.close()
    for row in rows:
        if row["images_per_second"]:
            row["median"] = statistics.median(row["images_per_second"])
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest setting of each kind, and the ratios that the project aims at."""

    def best(contender: str, **wanted: Any) -> dict[str, Any] | None:
        """Return the fastest row with these settings; ``None`` as a value means that the setting is absent."""
        fitting = [
            row
            for row in rows
            if row["contender"] == contender
            and "median" in row
            and all(row["setting"].get(k) in (v if isinstance(v, tuple) else (v,)) for k, v in wanted.items())
        ]
        return max(fitting, key=lambda row: row["median"], default=None)

    chosen = {
        "zoo fp32": best("zoo", precision=None, decode=None),
        "zoo fp32 torch": best("zoo", precision=None, decode=None, engine="torch"),
        "zoo bf16": best("zoo", precision="bf16", decode=None),
        "zoo int8": best("zoo", precision="int8", decode=None),
        **{f"zoo {name} scaled": best("zoo", precision=p, decode="scaled") for name, p in _SCALED},
        "timm eager": best("timm", compile=None, precision=None),
        "timm compiled": best("timm", compile=("default", "freezing")),
        **{peer: best(peer) for peer in peers.REQUIREMENTS},
    }
    for name in ("fp32", "bf16", "int8"):
        if ours := chosen[f"zoo {name}"]:
            alike = {"engine": ours["setting"]["engine"], "precision": ours["setting"].get("precision")}
            chosen[f"limit {name}"] = best("limit", **alike)
    table = {name: row for name, row in chosen.items() if row}

    def ratio(a: str, b: str) -> float | None:
        return round(table[a]["median"] / table[b]["median"], 3) if a in table and b in table else None

    return {
        "best": {
            name: {"setting": row["setting"], "images_per_second": row["median"], "cosine": row["cosine"]}
            | {"cosine_centred": row["cosine_centred"]}
            for name, row in table.items()
        },
        "fp32_over_timm_eager": ratio("zoo fp32", "timm eager"),
        "fp32_over_timm_compiled": ratio("zoo fp32", "timm compiled"),
        "fp32_over_its_limit": ratio("zoo fp32", "limit fp32"),
        "int8_over_timm_eager": ratio("zoo int8", "timm eager"),
        "int8_over_its_limit": ratio("zoo int8", "limit int8"),
        **{f"{name}_scaled_over_exact": ratio(f"zoo {name} scaled", f"zoo {name}") for name, _ in _SCALED},
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, used repeatedly")
    parser.add_argument("--images", type=int, default=64, help="number of files to embed")
    parser.add_argument(
        "--model", default="byol_r18_mini", help="as for `zoo extract`; byol_r50.random needs no weights"
    )
    parser.add_argument("--device", default=None, help="device of torch")
    parser.add_argument("--onnx-device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="measure torch and timm in bf16, too")
    parser.add_argument("--engines", nargs="+", default=[], help="measure zoo on these engines only")
    parser.add_argument("--scaled", action="store_true", help="measure zoo with --decode scaled, too")
    parser.add_argument("--megapixels", type=float, default=None, help="enlarge the photographs to so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[16], help="compiled networks and peers use the first"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="workers of the DataLoader")
    parser.add_argument("--peers", type=Path, default=None, help="folder of peers.py")
    parser.add_argument("--only", nargs="+", default=[], help="measure these contenders only")
    parser.add_argument("--json", type=Path, default=None, help="where to write the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(args, Path(scratch))
    found = summary(rows)
    result = {
        **found,
        "model": args.model,
        "images": args.images,
        "megapixels": args.megapixels,
        "cpu": cpu.facts(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rows": rows,
    }
    print(cpu.line())
    print(json.dumps(found, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    for name in ("zoo fp32", "timm eager", "timm compiled"):
        if name in found["best"] and found["best"][name]["cosine"] < SAME:
            raise SystemExit(f"{name} gives other embeddings: cosine {found['best'][name]['cosine']}")


if __name__ == "__main__":
    main()
