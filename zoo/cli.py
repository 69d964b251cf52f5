"""The ``zoo`` command: arguments only; each command imports what it needs, so that help and list are instant."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.command_line import new_app, run
from zoo.errors import EXIT_OK, EXIT_SOME_FAILED
from zoo.registry import DEFAULT_MODEL

app = new_app("Self-supervised ResNet features: list models, extract embeddings, evaluate, export.")


class Backend(StrEnum):
    auto = "auto"
    torch = "torch"
    onnx = "onnx"


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


class FilePrecision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Pixels(StrEnum):
    any = "any"
    crop = "crop"
    normalised = "normalised"


class Format(StrEnum):
    parquet = "parquet"
    npy = "npy"
    safetensors = "safetensors"


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"


class Crops(StrEnum):
    centre = "center"  # str has a method center
    ten = "ten"
    full = "full"


class Engine(StrEnum):
    here = "here"
    ray = "ray"


class Kind(StrEnum):
    deepmind_byol = "deepmind-byol"
    simsiam = "simsiam"
    moco = "moco"
    swav = "swav"
    simclr = "simclr"
    torch = "torch"


class Names(StrEnum):
    torchvision = "torchvision"
    timm = "timm"
    detectron2 = "detectron2"


class Which(StrEnum):
    online = "online"
    target = "target"


class Protocol(StrEnum):
    knn = "knn"
    linear = "linear"
    linear_sgd = "linear-sgd"
    linear_lars = "linear-lars"
    semi_supervised = "semi-supervised"
    transfer = "transfer"
    detect = "detect"
    segment = "segment"
    depth = "depth"


Model = Annotated[
    str, typer.Option(help="NAME or NAME.tag of `zoo list`, or a path to .safetensors or .onnx.", show_default=True)
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the GPU if there is one; with onnx the CPU.")
]


@app.command("list")
def list_models(
    json: Annotated[bool, typer.Option("--json", help="All that `zoo info` tells, of every model.")] = False,
) -> None:
    """All models: architecture, embedding length, parameters, weights."""
    from zoo.describe import print_list, print_list_json

    print_list_json() if json else print_list()


@app.command()
def info(name: Annotated[str, typer.Argument(help="NAME or NAME.tag.")]) -> None:
    """One model: weights, licence, source, preprocessing, how to train it."""
    from zoo.describe import print_info

    print_info(name)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="NAME or NAME.tag of `zoo list`.")],
    file: Annotated[Path | None, typer.Option(help="The official file, if it is here already.")] = None,
) -> None:
    """Download official weights, verify and convert them, into the cache; loading them by name does the same."""
    from zoo.describe import megabytes, print_fetched
    from zoo.fetch import fetch_by_name

    with megabytes() as progress:
        folder = fetch_by_name(name, file=file, progress=progress)
    print_fetched(folder)


@app.command()
def extract(
    images: Annotated[
        str, typer.Option(help="Folder, glob, list (.txt, .csv), .tar, .parquet, saved Hugging Face dataset, or URL.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for embeddings-*.parquet, manifest.json, run.log.jsonl.")],
    model: Model = DEFAULT_MODEL,
    backend: Annotated[Backend, typer.Option(help="What runs the network; auto: the fastest here.")] = Backend.auto,
    format: Annotated[Format, typer.Option(help="parquet, or a matrix and a table per shard.")] = Format.parquet,
    dtype: Annotated[Dtype, typer.Option(help="Of the embeddings written.")] = Dtype.float32,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Crops per forward pass; default: by size.")] = None,
    precision: Annotated[Precision, typer.Option(help="bf16 runs on torch, int8 on ONNX Runtime.")] = Precision.fp32,
    normalize: Annotated[
        bool,
        typer.Option("--normalize", help="Embeddings, of tiles too, of length 1; no other output."),
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="layer1,...,layer4: average-pooled features of these stages; torch.")
    ] = None,
    maps: Annotated[
        str | None, typer.Option(help="layer1,...,layer4: their maps [C, H, W], columns layer4_map and so on; torch.")
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(help="projection,prediction,logits of the checkpoint; logits come along where there are any."),
    ] = None,
    crops: Annotated[
        Crops,
        typer.Option(help="ten: mean over corners, centre and mirror images; full: no crop, image by image, torch."),
    ] = Crops.centre,
    tiles: Annotated[
        str | None, typer.Option(metavar="RxC", help="Embed each part of a grid, too: column tiles [R, C, D].")
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per output file; a kill loses at most one. Default: 1024, fewer with maps."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="OUT's folder grew or changed: embed what is new.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads; default: one a core.")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger images are not decoded.")] = 64_000_000,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Embed files with the same bytes once, and list near duplicates.")
    ] = False,
    near: Annotated[
        float | None, typer.Option(help="With --dedupe: near from this cosine on; default 0.99, models differ.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="COL,... of the source to carry into the result: labels, ids.")
    ] = None,
    device: Device = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Make every N-th shard from the I-th, from 0: for job arrays.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="ray: shards are made on a Ray cluster.")] = Engine.here,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a running cluster; default: RAY_ADDRESS, else one is started here.")
    ] = None,
) -> int:
    """Embed every image of a source; run again after a kill and it goes on.

    Exit code 0: all images were read, copies aside; 3: some failed (named at the end); 2: the command must change; 130:
    interrupted.
    With --shard and under torchrun, 0 while shards of others are missing; under torchrun, which would end the other
    ranks, 0 instead of 3.
    """
    from zoo.api import load
    from zoo.describe import print_extraction, print_opened
    from zoo.errors import UserError
    from zoo.extraction import extract as run_extraction
    from zoo.outputs import Outputs, grid
    from zoo.progress import Progress
    from zoo.share import own_device, own_share

    share = own_share(shard)
    if ray_address is not None and engine is not Engine.ray:
        raise UserError("--ray-address needs --engine ray")
    opening: dict[str, Any] = {
        "device": own_device(device, backend=backend.value, precision=precision.value),
        "backend": backend.value,
        "precision": precision.value,
        "normalize": normalize,
        "outputs": Outputs(
            layers=_names(layers),
            maps=_names(maps),
            heads=_names(heads),
            crops=crops.value,
            tiles=grid(tiles) if tiles else None,
        ),
    }
    with ExitStack() as stack:
        if engine is Engine.ray:
            from zoo.cluster import connect

            crew = stack.enter_context(connect(ray_address, cores=workers or 1))
            embedder: Any = crew.open(model, opening)
        else:
            crew, embedder = None, load(model, **opening)
        print_opened(embedder)
        progress = stack.enter_context(Progress("images"))
        result = run_extraction(
            images,
            out,
            embedder=embedder,
            keep=_names(keep),
            format=format.value,
            dtype=dtype.value,
            batch_size=batch_size,
            shard_size=shard_size,
            update=update,
            workers=workers,
            max_pixels=max_pixels,
            dedupe=dedupe,
            near=near,
            progress=progress,
            share=share,
            crew=crew,
        )
    print_extraction(result, out)
    return EXIT_SOME_FAILED if result.failed and not result.missing and not share.ranks else EXIT_OK


def _names(text: str | None) -> tuple[str, ...]:
    """``"a,b"`` as ``("a", "b")``."""
    return tuple(text.split(",")) if text else ()


@app.command()
def index(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a finished `zoo extract`.")],
    exact: Annotated[
        bool | None, typer.Option("--exact/--graph", help="Default: exact below 10 000 images.", show_default=False)
    ] = None,
) -> None:
    """Make an extraction searchable; the recall against exact search is measured and printed."""
    from zoo.search.collection import Collection
    from zoo.search.index import build
    from zoo.search.show import print_index

    print_index(build(Collection(out), exact=exact), out)


Original = Annotated[
    str | None, typer.Option(help="What `zoo extract --images` was given, for thumbnails.", show_default=False)
]
SearchModel = Annotated[
    str | None, typer.Option(help="Where the model is now; default: the name in the manifest.", show_default=False)
]


@app.command()
def search(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that `zoo index` was run on.")],
    queries: Annotated[list[Path], typer.Argument(metavar="QUERY...", help="Image files.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Neighbours of each.")] = 9,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs no network.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    images: Original = None,
    model: SearchModel = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger queries are not decoded.")] = 64_000_000,
    device: Device = None,
) -> int:
    """The nearest images of an extraction to other images, by cosine.

    Exit code 0: all queries were read; 3: some were not (named at the end); 2: none was, or the command must change.
    """
    from zoo.search.command import run_search

    return run_search(
        out, queries, k=k, html=html, json=json, images=images, model=model, max_pixels=max_pixels, device=device
    )


@app.command()
def serve(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that `zoo index` was run on.")],
    images: Original = None,
    host: Annotated[str, typer.Option(help="Others than this machine's users can connect unless it is local.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that this machine goes by; repeatable.", show_default=False)
    ] = None,
    model: SearchModel = None,
    device: Device = None,
) -> None:
    """A local page: drop a photograph and see its neighbours, a map, all images; /embed for other programs."""
    from zoo.search.serve import serve as run_server

    run_server(out, images=images, host=host, port=port, names=allow_host or (), model=model, device=device)


@app.command()
def verify(out: Annotated[Path, typer.Argument(help="Folder of `zoo extract`.")]) -> None:
    """Prove an extraction: every hash and count of its manifest is taken again. Exit code 2 names what differs."""
    from zoo.describe import print_verified
    from zoo.verify import verify as run_verification

    print_verified(run_verification(out))


@app.command()
def cat(
    out: Annotated[Path, typer.Argument(help="Folder of `zoo extract`.")],
    file: Annotated[Path, typer.Argument(help="New .parquet; or .npy or .safetensors, with a .parquet beside it.")],
) -> None:
    """Verify an extraction and merge its shards into one file, which is read back and compared."""
    from zoo.describe import print_merged
    from zoo.merge import merge

    print_merged(merge(out, file))


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    model: Model = DEFAULT_MODEL,
    normalize: Annotated[bool, typer.Option("--normalize", help="l2 norm inside the graph.")] = False,
    pixels: Annotated[
        Pixels,
        typer.Option(
            help="What goes in. any: uint8 [N, H, W, 3] of any size, the graph resizes and crops; crop: uint8, resized "
            "and cropped already; normalised: float32 [N, 3, S, S]."
        ),
    ] = Pixels.any,
    precision: Annotated[FilePrecision, typer.Option(help="int8 is static, weights per channel.")] = FilePrecision.fp32,
    opset: Annotated[int, typer.Option(help="From 18, which most runtimes read, to 23.")] = 18,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of photographs for int8; default: two that ship.", show_default=False)
    ] = None,
) -> None:
    """Write one self-contained ONNX file, once it agrees with torch on real photographs: pixels in, embeddings out."""
    from zoo.api import load
    from zoo.describe import print_exported
    from zoo.export import Variant, export_onnx

    variant = Variant(pixels.value, precision.value, opset)
    embedder = load(model, device="cpu", normalize=normalize)
    print_exported(export_onnx(embedder, out, variant, calibrate=calibrate))


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="An official file for --from; NAME, folder or file for --to.")],
    out: Annotated[Path, typer.Option(help="New folder for --from; for --to .safetensors, .pth or (detectron2) .pkl.")],
    from_: Annotated[Kind | None, typer.Option("--from", help="Whose file it is.")] = None,
    to: Annotated[Names | None, typer.Option(help="Whose key names to write.")] = None,
    which: Annotated[Which, typer.Option(help="Network, where the file has both.")] = Which.online,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the file's.")] = None,
    prefix: Annotated[str | None, typer.Option(help="--from torch: what stands before conv1.weight.")] = None,
    input_size: Annotated[int, typer.Option(min=1, help="--from torch: crop in pixels.")] = 224,
    resize: Annotated[int, typer.Option(min=1, help="--from torch: short side before the crop.")] = 256,
    licence: Annotated[str | None, typer.Option(help="SPDX name; default: the publisher's.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Convolutions in float16, BN in float32.")] = False,
) -> None:
    """Official file to a folder that loads everywhere, or an encoder to other libraries' key names.

    Nothing in the file is executed. Depth, width and stem are found in it.
    """
    from zoo.describe import print_converted, print_renamed
    from zoo.errors import UserError

    if (from_ is None) == (to is None):
        raise UserError("give --from (an official file to a folder) or --to (an encoder to other key names)")
    if to is not None:
        from zoo.convert.to_others import rename

        print_renamed(rename(file, to.value, out))
        return
    assert from_ is not None
    from zoo.convert.convert import convert as run_conversion
    from zoo.preprocess import Preprocessing

    chosen = Preprocessing(input_size, resize) if from_ is Kind.torch else None
    print_converted(
        run_conversion(
            Path(file),
            from_.value,
            out,
            which=which.value,
            name=name,
            prefix=prefix,
            licence=licence,
            preprocessing=chosen,
            half=half,
        )
    )


@app.command()
def evaluate(
    protocol: Annotated[Protocol, typer.Argument(help="How to score; README, Evaluation, says what each one does.")],
    data: Annotated[Path, typer.Option(help="Folder with train and test (or val): class folders or parquet; or NAME.")],
    model: Annotated[
        str, typer.Option(help="As for extract; NAME.random, or random, is the untrained network.")
    ] = DEFAULT_MODEL,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="option=value of the protocol; repeatable.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="detect, segment, depth: small, or a published one, which is the default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits, crops and heads.")] = 0,
    root: Annotated[Path | None, typer.Option(help="Folder with the data sets that --data may name.")] = None,
    subset_files: Annotated[
        Path | None, typer.Option(help="semi-supervised: folder with 1percent.txt and 10percent.txt.")
    ] = None,
    device: Device = None,
) -> None:
    """Score a representation on labelled images; writes one JSON."""
    from zoo.command_line import assignments
    from zoo.describe import print_result
    from zoo.evaluate.run import evaluate as run_protocol

    result = run_protocol(
        protocol.value,
        model,
        data,
        out=out,
        device=device,
        seed=seed,
        schedule=schedule,
        settings=assignments(set_ or []),
        root=root,
        subset_files=subset_files,
    )
    print_result(result)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders with files of `zoo evaluate --out`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.md, report.html and the PNG files.")] = Path("report"),
    data: Annotated[
        Path | None, typer.Option(help="Labelled data with train and test, for pictures of images.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Whose features the pictures are of; repeatable; needs --data.")
    ] = None,
    device: Device = None,
) -> None:
    """The papers' tables with measured rows beside the published ones, and pictures."""
    from zoo.errors import UserError
    from zoo.report.generate import report as write

    if model and data is None:
        raise UserError("--model draws pictures of --data: give a labelled folder with train and test")
    models = (model or [DEFAULT_MODEL]) if data is not None else []
    for path in write(folders, out, data=data, models=models, device=device):
        print(path)


@app.command()
def publish(
    model: Annotated[str, typer.Argument(help="NAME or NAME.tag, a folder of `zoo convert`, or a .safetensors file.")],
    repo: Annotated[str, typer.Option(help="ORG/NAME on the model hub (HF_ENDPOINT, HF_TOKEN).")],
    dry_run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the repository here, send nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is created.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch; default: main.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of `zoo evaluate` JSON files for the card.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="An int8 ONNX file too, if it passes its gate.")
    ] = True,
) -> None:
    """Make one repository that zoo, timm, transformers, torch.hub and ONNX Runtime read, and upload it as one commit.

    Every loader is checked first, and what was uploaded is downloaded and compared.
    """
    from zoo.describe import print_published
    from zoo.publish import publish as run_publish

    done = run_publish(model, repo, dry_run=dry_run, private=private, revision=revision, results=results, int8=int8)
    print_published(done)


@app.command()
def card(name: Annotated[str, typer.Argument(help="NAME or NAME.tag with weights.")]) -> None:
    """Write the card of a model into model_cards/, from the registry and the measured JSON files there."""
    from zoo.card.render import write

    print(write(name))


def main() -> None:
    """Entry point of ``zoo``."""
    run(app, "zoo", go_on="run the same command again and it goes on")
