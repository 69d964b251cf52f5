"""The commands that make embeddings: extract, and plan, which cuts a source into parts for it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.cli import completion
from zoo.cli.option_groups import grouped
from zoo.cli.options import Device
from zoo.errors import EXIT_OK, EXIT_SOME_FAILED, UserError
from zoo.models.registry import DEFAULT_MODEL
from zoo.system.preflight import require_path
from zoo.system.verbosity import say
from zoo.transforms.limits import MAX_PIXELS, WHITE_16, Decode, Icc, Truncated

if TYPE_CHECKING:
    from zoo.extraction.ray_executor import RemoteModel
    from zoo.inference.embedder import Embedder

app = typer.Typer()

Backend = Literal["auto", "torch", "onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
Format = Literal["parquet", "npy", "safetensors"]
Dtype = Literal["float32", "float16"]
Crops = Literal["center", "ten", "full"]
Engine = Literal["here", "ray"]


@dataclass(frozen=True)
class ModelOptions:
    """The model, and what runs it."""

    model: Annotated[
        str | None,
        typer.Option(
            help="NAME or NAME.tag of `zoo list`, or a path to .safetensors or .onnx. Default: what OUT already has, "
            f"else {DEFAULT_MODEL}.",
            autocompletion=completion.models,
        ),
    ] = None
    backend: Annotated[Backend, typer.Option(help="What runs the network; auto: the fastest here.")] = "auto"
    precision: Annotated[Precision, typer.Option(help="bf16: torch or OpenVINO; int8: ONNX Runtime or OpenVINO.")] = (
        "fp32"
    )
    device: Device = None


@dataclass(frozen=True)
class OutputOptions:
    """What is computed for each image."""

    normalize: Annotated[
        bool, typer.Option("--normalize", help="Embeddings, of tiles too, of length 1; no other output.")
    ] = False
    layers: Annotated[
        str | None, typer.Option(help="layer1,...,layer4: average-pooled features of these stages; torch.")
    ] = None
    maps: Annotated[
        str | None, typer.Option(help="layer1,...,layer4: their maps [C, H, W], columns layer4_map and so on; torch.")
    ] = None
    heads: Annotated[
        str | None,
        typer.Option(help="projection,prediction,logits of the checkpoint; logits come along where there are any."),
    ] = None
    crops: Annotated[
        Crops,
        typer.Option(help="ten: mean over corners, centre and mirror images; full: no crop, image by image, torch."),
    ] = "center"
    tiles: Annotated[
        str | None, typer.Option(metavar="RxC", help="Embed each part of a grid, too: column tiles [R, C, D].")
    ] = None


def _near_text(text: str) -> str:
    """Refuse at once, as a wrong option, what is neither a number nor ``auto``."""
    try:
        if text != "auto":
            float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a cosine nor auto") from None
    return text


@dataclass(frozen=True)
class ResultOptions:
    """How the result is written."""

    format: Annotated[Format, typer.Option(help="parquet, or a matrix and a table per shard.")] = "parquet"
    dtype: Annotated[Dtype, typer.Option(help="Type of the embeddings written.")] = "float32"
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per output file; a kill loses at most one. Default: OUT's, else 1024."),
    ] = None
    keep: Annotated[str | None, typer.Option(help="COL,... of the source to carry into the result: labels, ids.")] = (
        None
    )
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Embed files with the same bytes once, and list near duplicates.")
    ] = False
    near: Annotated[
        str | None,
        typer.Option(
            metavar="COSINE|auto",
            parser=_near_text,
            help="With --dedupe: cosine from which on two images are near; auto: chosen from the collection. "
            "Default: what OUT already has, else auto.",
        ),
    ] = None


@dataclass(frozen=True)
class InputOptions:
    """How the images are read."""

    images: Annotated[
        str | None,
        typer.Option(help="The same as IMAGES; - reads a list of paths from standard input.", show_default=False),
    ] = None
    image_column: Annotated[
        str | None, typer.Option(help="Column of a table with the images or their paths; default: found by its type.")
    ] = None
    icc: Annotated[
        Icc, typer.Option(help="convert: pixels with a colour profile (Display P3, Adobe RGB, CMYK) become sRGB.")
    ] = "ignore"
    truncated: Annotated[
        Truncated, typer.Option(help="accept: embed what is there of a truncated file, with a note in its row.")
    ] = "refuse"
    white16: Annotated[
        int, typer.Option(min=255, max=WHITE_16, help="White in 16-bit gray; 4095: 12 bits are stored in 16.")
    ] = WHITE_16
    decode: Annotated[
        Decode, typer.Option(help="scaled: large JPEGs at 1/2 to 1/8, at least twice what the model resizes to; fast.")
    ] = "exact"


@dataclass(frozen=True)
class RunOptions:
    """How this process, and perhaps others beside it, does the work."""

    update: Annotated[bool, typer.Option("--update", help="OUT's folder grew or changed: embed what is new.")] = False
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Crops per forward pass; default: OUT's, else by size.")
    ] = None
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads; default: one a core.")] = None
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger images are not decoded.")] = MAX_PIXELS
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Make every N-th shard from the I-th, from 0: for job arrays.")
    ] = None
    engine: Annotated[Engine, typer.Option(help="ray: shards are made on a Ray cluster.")] = "here"
    ray_address: Annotated[
        str | None, typer.Option(help="Of a running cluster; default: RAY_ADDRESS, else one is started here.")
    ] = None


@app.command(short_help="Embed every image of a source; a killed run goes on.")
@grouped
def extract(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGES",
            help="Folder, glob, list (.txt, .csv), .tar, .parquet, Hugging Face dataset, URL; - is a list on stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for embeddings-*.parquet, _manifest.json, _run.log.jsonl.")],
    network: ModelOptions,
    reading: InputOptions,
    wanted: OutputOptions,
    result: ResultOptions,
    run: RunOptions,
) -> int:
    """Embed every image of a source; run again after a kill and it goes on.

    Exit code 0: all images were read, duplicates aside; 3: some failed (named at the end); 2: the command must change;
    130: interrupted.
    With --shard and under torchrun, 0 while shards of others are missing; under torchrun, which would end the other
    ranks, 0 instead of 3.
    """
    from zoo.system.hardware import require_device_name

    # The source is an argument or an option.
    if source is not None and reading.images is not None:
        raise UserError(
            f"the images are given twice, as {source!r} and as --images {reading.images!r}: leave one out, or quote a "
            "glob ('photos/*.jpg')"
        )
    images = source if source is not None else reading.images
    if images is None:
        raise UserError("give the images: zoo extract IMAGES --out OUT. See `zoo extract --help`.")
    # Say at once what needs no library.
    require_device_name(network.device)
    require_path(images, f"{images} does not exist: give the folder that holds the images")
    from zoo.sources.parts import is_empty_part

    if is_empty_part(images):  # of more parts than images: a job array has a job for it
        say(f"{images} has no image: nothing to do")
        return EXIT_OK
    from zoo import api
    from zoo.cli.default_model import default_note, is_demo
    from zoo.cli.messages import print_extraction, print_opened
    from zoo.embeddings.shards import STATE, OutputFolder
    from zoo.extraction.partition import own_device, own_partition
    from zoo.inference.outputs import Outputs, grid
    from zoo.system.progress import Progress

    # Find the part of the work that this process does.
    partition = own_partition(run.shard)
    is_new = not OutputFolder(out).manifest.exists() and not (out / STATE / "plan.parquet").exists()
    with ExitStack() as stack:
        progress = Progress("images")

        def opened(model: Embedder | RemoteModel) -> None:
            print_opened(model)
            # once per result folder, by one of several processes
            if is_new and partition.index == 0 and is_demo(str(model.identity()["model"])):
                progress.first_line = default_note()
            stack.enter_context(progress)  # not before: the bar of a terminal redirects what is printed

        done = api.extract(
            images,
            out,
            model=network.model,
            device=own_device(network.device, backend=network.backend, precision=network.precision),
            backend=network.backend,
            precision=network.precision,
            normalize=wanted.normalize,
            outputs=Outputs(
                layers=_names(wanted.layers),
                maps=_names(wanted.maps),
                heads=_names(wanted.heads),
                crops=wanted.crops,
                tiles=grid(wanted.tiles) if wanted.tiles else None,
            ),
            # What a shard holds and how it is written.
            keep=_names(result.keep),
            format=result.format,
            dtype=result.dtype,
            shard_size=result.shard_size,
            dedupe=result.dedupe,
            near=_cosine(result.near),
            # How this run works through the images.
            update=run.update,
            batch_size=run.batch_size,
            workers=run.workers,
            max_pixels=run.max_pixels,
            icc=reading.icc,
            truncated=reading.truncated,
            white16=reading.white16,
            decode=reading.decode,
            image_column=reading.image_column,
            partition=partition,
            engine=run.engine,
            ray_address=run.ray_address,
            progress=progress,
            on_open=opened,
        )
    print_extraction(done, out)
    # Under torchrun a failure code would end the other ranks.
    return EXIT_SOME_FAILED if done.failed and not done.missing and not partition.ranks else EXIT_OK


@app.command(short_help="Cut a source into parts, for job arrays.")
def plan(
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="Any source of `zoo extract`, but no list on stdin.")],
    out: Annotated[Path, typer.Option(help="Folder for part-*.zooplan and _parts.json.")],
    parts: Annotated[int, typer.Option(min=1, help="Number of files, of nearly as many images each.")],
    keep: Annotated[str | None, typer.Option(help="COL,... of the source that a part can carry into its result.")] = (
        None
    ),
    image_column: Annotated[
        str | None, typer.Option(help="Column of a table with the images or their paths; default: found by its type.")
    ] = None,
) -> None:
    """List a source once and cut it into parts, each a source of its own for `zoo extract`, on any machine.

    `zoo extract OUT/part-00003.zooplan --out OUT/part-00003` makes one; `zoo cat OUT FILE` joins all. A killed run is
    run again.
    """
    require_path(images, f"{images} does not exist: give the folder that holds the images")
    from zoo.sources import absolute, open_source
    from zoo.sources.parts import EXTENSION, cut

    if images == "-" or images.lower().endswith(EXTENSION):
        raise UserError(f"{images} cannot be cut into parts: give a folder, a list in a file, tar files or tables")
    made, listing = cut(
        open_source(images, _names(keep), image_column=image_column), absolute(images), parts, out, image_column
    )
    sizes = [part.rows for part in made.parts]
    empty = f", {sizes.count(0)} of them empty" if 0 in sizes else ""
    work = f"{made.written} written now" if made.written else "nothing was left to do"
    each = f"{min(sizes)} to {max(sizes)}" if min(sizes) != max(sizes) else f"{max(sizes)}"
    say(f"{out}: {len(listing.files)} images in {parts} parts of {each}{empty} ({work})")
    if listing.other_files:
        say(f"left out: {listing.other_files} other file{'s' * (listing.other_files != 1)}")
    first = out / made.parts[0].name
    say(f"make a part: zoo extract {first}{EXTENSION} --out {first}")


def _names(text: str | None) -> tuple[str, ...]:
    """Return ``"a,b"`` as ``("a", "b")``."""
    return tuple(text.split(",")) if text else ()


def _cosine(text: str | None) -> float | str | None:
    """Return the number in a text; any other text as it is, for those who know which words there are."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
