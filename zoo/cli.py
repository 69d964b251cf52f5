"""The ``zoo`` command: arguments only; each command imports what it needs, so that help and list are instant."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from zoo.command_line import new_app, run
from zoo.errors import EXIT_OK, EXIT_SOME_FAILED
from zoo.registry import DEFAULT_MODEL

app = new_app("Self-supervised ResNet features: list models, extract embeddings, evaluate, export.")


class Backend(StrEnum):
    torch = "torch"
    onnx = "onnx"


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


class Format(StrEnum):
    parquet = "parquet"
    npy = "npy"


class Protocol(StrEnum):
    knn = "knn"
    linear = "linear"


Model = Annotated[
    str, typer.Option(help="NAME or NAME.tag of `zoo list`, or a path to .safetensors or .onnx.", show_default=True)
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the GPU if there is one; with onnx the CPU.")
]


@app.command("list")
def list_models() -> None:
    """All models: architecture, embedding length, parameters, weights."""
    from zoo.describe import print_list

    print_list()


@app.command()
def info(name: Annotated[str, typer.Argument(help="NAME or NAME.tag.")]) -> None:
    """One model: weights, licence, source, preprocessing, how to train it."""
    from zoo.describe import print_info

    print_info(name)


@app.command()
def extract(
    images: Annotated[Path, typer.Option(help="Folder of images, read recursively.")],
    out: Annotated[Path, typer.Option(help="Folder for embeddings-*.parquet, manifest.json, run.log.jsonl.")],
    model: Model = DEFAULT_MODEL,
    backend: Annotated[Backend, typer.Option(help="What runs the network.")] = Backend.torch,
    format: Annotated[Format, typer.Option(help="parquet, or a matrix and a table per shard.")] = Format.parquet,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    precision: Annotated[Precision, typer.Option(help="bf16 needs --backend torch.")] = Precision.fp32,
    normalize: Annotated[bool, typer.Option("--normalize", help="Embeddings of length 1.")] = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per output file; a kill loses at most one.")] = 1024,
    update: Annotated[bool, typer.Option("--update", help="OUT's folder grew or changed: embed what is new.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads; default: one a core.")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger images are not decoded.")] = 64_000_000,
    device: Device = None,
) -> int:
    """Embed every image of a folder; run again after a kill and it goes on.

    Exit code 0: all images were read; 3: some failed (named at the end); 2: the command must change; 130: interrupted.
    """
    from zoo.api import load
    from zoo.describe import print_extraction, print_opened
    from zoo.extraction import extract as run_extraction
    from zoo.progress import Progress

    embedder = load(model, device=device, backend=backend.value, precision=precision.value, normalize=normalize)
    print_opened(embedder)
    with Progress("images") as progress:
        result = run_extraction(
            images,
            out,
            embedder=embedder,
            format=format.value,
            batch_size=batch_size,
            shard_size=shard_size,
            update=update,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress,
        )
    print_extraction(result, out)
    return EXIT_SOME_FAILED if result.failed else EXIT_OK


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    model: Model = DEFAULT_MODEL,
    normalize: Annotated[bool, typer.Option("--normalize", help="l2 norm inside the graph.")] = False,
) -> None:
    """Write one self-contained ONNX file: uint8 pixels [N, H, W, 3] in, float32 embeddings out."""
    from zoo.api import load
    from zoo.describe import print_exported
    from zoo.export import export_onnx

    print_exported(export_onnx(load(model, device="cpu", normalize=normalize), out))


@app.command()
def evaluate(
    protocol: Annotated[Protocol, typer.Argument(help="knn, or linear (logistic regression on frozen features).")],
    data: Annotated[Path, typer.Option(help="Folder with train and test (or val): class folders or parquet.")],
    model: Annotated[str, typer.Option(help="As for extract; NAME.random is the untrained network.")] = DEFAULT_MODEL,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
    device: Device = None,
) -> None:
    """Score a representation on labelled images."""
    from zoo.describe import print_result
    from zoo.evaluate.run import evaluate as run_protocol

    print_result(run_protocol(protocol.value, model, data, out=out, device=device))


@app.command()
def card(name: Annotated[str, typer.Argument(help="A model that this project trained.")]) -> None:
    """Write model_cards/NAME.md from the registry and the measured JSON files beside it."""
    from zoo.card import write

    print(write(name))


def main() -> None:
    """Entry point of ``zoo``."""
    run(app, "zoo", go_on="run the same command again and it goes on")
