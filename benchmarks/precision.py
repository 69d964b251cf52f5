"""What reduced precision costs trained networks, for each engine: cosine, kNN accuracy, nearest neighbours.

    python benchmarks/precision.py --data flowers17 --json benchmarks/results/precision.json

DATA holds ``train``, ``val`` and ``test``, with a folder per class. Each engine embeds all images; torch in fp32 is the
reference. Rows of ``train`` are the neighbours of those of ``val`` and ``test``. int8 is calibrated on the two
photographs that ship with the package. An engine that is not installed, or that this CPU cannot run, is left out by
name. The JSON is written as rows come, and keeps what it has of other models and precisions. A row lists the CPU's
instructions: an int8 product can round otherwise on another CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

import cpu

Vectors = NDArray[np.float32]
NEIGHBOURS = 5
SAID = 0.5  # points of kNN accuracy that a precision may lose without a mark
ENGINES = [
    ("torch", "fp32"), ("torch", "bf16"), ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"),
    ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "fp16"), ("openvino", "int8"),
]  # fmt: skip


def files_of(data: Path, limit: int | None) -> tuple[list[Path], NDArray[np.str_], NDArray[np.bool_]]:
    """Return images, their classes, and whether each is one of ``train``."""
    paths = [path for split in ("train", "val", "test") for path in sorted((data / split).glob("*/*"))][:: limit or 1]
    return (
        paths,
        np.array([path.parent.name for path in paths]),
        np.array([path.parts[-3] == "train" for path in paths]),
    )


def open_engine(model: str, backend: str, precision: str, scratch: Path) -> Any:
    """Open a model; fp16 is a file of ``zoo export``."""
    import zoo
    from zoo.export.export import Variant, export_onnx

    if precision != "fp16":
        return zoo.load(model, backend=backend, precision=precision, device="cpu")
    path = scratch / f"{model}-fp16.onnx"
    if not path.exists():
        export_onnx(zoo.load(model, device="cpu"), path, Variant("crop", "fp16"))
    return zoo.load(path, backend=backend, device="cpu")


def unit(vectors: Vectors) -> Vectors:
    """Scale rows to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def scores(
    found: Vectors, reference: Vectors, classes: NDArray[np.str_], is_train: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return how near embeddings are to the reference, and what kNN makes of them."""
    mean = reference.mean(axis=0)
    cosine = (unit(found) * unit(reference)).sum(1)
    centred = (unit(found - mean) * unit(reference - mean)).sum(1)
    nearest = neighbours(found, is_train)
    right = [
        max(sorted(set(votes)), key=lambda name: (list(votes).count(name), -list(votes).index(name)))
        for votes in classes[is_train][nearest]
    ] == classes[~is_train]
    return {
        "cosine_least": float(cosine.min()),
        "cosine_mean": float(cosine.mean()),
        "centred_cosine_least": float(centred.min()),
        "centred_cosine_mean": float(centred.mean()),
        "knn_accuracy": round(100 * float(right.mean()), 2),
        "same_nearest": round(100 * float((nearest[:, 0] == neighbours(reference, is_train)[:, 0]).mean()), 2),
    }


def neighbours(vectors: Vectors, is_train: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the nearest training rows of every other row, nearest first: [N, k]."""
    rows = unit(vectors)
    return np.argsort(-(rows[~is_train] @ rows[is_train].T), axis=1, kind="stable")[:, :NEIGHBOURS]


def measure(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Return a row per model and engine."""
    from zoo.errors import UserError

    paths, classes, is_train = files_of(args.data, args.every)
    there = args.json is not None and args.json.exists()
    rows: list[dict[str, Any]] = json.loads(args.json.read_text())["rows"] if there else []
    for model in args.models:
        # Torch in fp32 is the reference of every row, and a row only if it is asked for.
        reference: Vectors = open_engine(model, "torch", "fp32", scratch)(paths, batch_size=64)
        for backend, precision in ENGINES:
            if precision not in args.precisions:
                continue
            row: dict[str, Any] = {"model": model, "backend": backend, "precision": precision}
            try:
                embedder = open_engine(model, backend, precision, scratch)
            except UserError as error:
                put(rows, row | {"left_out": str(error)})
                print(f"{model} {backend} {precision}: left out, {error}", flush=True)
                continue
            vectors = embedder(paths, batch_size=64)
            row |= scores(vectors, reference, classes, is_train)
            row["versions"] = {k: v for k, v in embedder.identity()["versions"].items() if k != "onnx_file"}
            row["cpu"] = cpu.facts()["features"]
            if precision == "int8":
                row["weight_bits"] = embedder.engine.file.weight_bits
            put(rows, row)
            print(json.dumps({k: v for k, v in row.items() if k != "versions"}), flush=True)
            write(args, rows, len(paths))
    return rows


def put(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Put a row in the place of an earlier one of the same engine, or at the end."""
    for place, other in enumerate(rows):
        if all(other.get(name) == row.get(name) for name in ("model", "backend", "precision", "weight_bits")):
            rows[place] = row
            return
    rows.append(row)


def write(args: argparse.Namespace, rows: list[dict[str, Any]], images: int) -> None:
    """Write the JSON, if any was asked for."""
    if args.json is not None:
        about = {"data": args.data.name, "images": images, "neighbours": NEIGHBOURS, "cpu": cpu.facts()}
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")


def named(row: dict[str, Any]) -> str:
    """Return ``fp16``, ``int8, 7 bits``."""
    return row["precision"] + (f", {row['weight_bits']} bits" if "weight_bits" in row else "")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the docs; a loss of more than ``SAID`` points is marked."""
    lines = ["| | cosine, least | centred, least / mean | kNN | same nearest |", "|---|---:|---:|---:|---:|"]
    exact = {row["model"]: row.get("knn_accuracy") for row in reversed(rows)}
    for row in rows:
        if "left_out" in row:
            continue
        lost = exact[row["model"]] - row["knn_accuracy"]
        mark = f" (**{-lost:+.1f}**)" if lost > SAID else ""
        lines.append(
            f"| {row['model']}, {row['backend']} {named(row)} | {row['cosine_least']:.5f} | "
            f"{row['centred_cosine_least']:.5f} / {row['centred_cosine_mean']:.5f} | {row['knn_accuracy']:.1f}{mark} | "
            f"{row['same_nearest']:.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test")
    parser.add_argument(
        "--models", nargs="+", default=["simclr_r18_mini", "byol_r18_mini"], help="as for `zoo extract`"
    )
    every = list(dict.fromkeys(precision for _, precision in ENGINES))
    parser.add_argument("--precisions", nargs="+", default=every, choices=every, help="default: all")
    parser.add_argument("--every", type=int, default=None, help="use every n-th image only")
    parser.add_argument("--json", type=Path, default=None, help="where to write the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(args, Path(scratch))
    print(table(rows))


if __name__ == "__main__":
    main()
