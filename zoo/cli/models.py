"""Commands about models: list, info, fetch, export, convert, publish, card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.cli import completion
from zoo.cli.options import Model
from zoo.models.registry import DEFAULT_MODEL
from zoo.system.terminal import print_line

app = typer.Typer()

# Constants of the modules that do the work: importing those would take seconds. A test compares both.
FilePrecision = Literal["fp32", "fp16", "int8"]
Pixels = Literal["any", "crop", "normalised"]
CheckpointKind = Literal[
    "deepmind-byol",
    "simsiam",
    "moco",
    "swav",
    "simclr",
    "localagg",
    "mocov3",
    "dino",
    "barlowtwins",
    "vicreg",
    "densecl",
    "lemniscate",
    "pycontrast",
    "cmc",
    "vissl",
    "torch",
    "auto",
]
KeyNames = Literal["torchvision", "timm", "detectron2"]
Network = Literal["online", "target"]
Sort = Literal["name", "score", "params", "dim", "licence"]


@app.command("list", short_help="List models: sizes, licence, published score, download.")
def list_models(
    names: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="Part of a name (with --tags: of NAME.tag), or a pattern as '*_r50'."),
    ] = None,
    *,
    licence: Annotated[
        str | None, typer.Option(help="commercial (permits it), non-commercial, or an SPDX name such as MIT.")
    ] = None,
    max_params: Annotated[float | None, typer.Option(min=0, help="Millions of parameters, at most.")] = None,
    method: Annotated[str | None, typer.Option(help="byol, simsiam, simclr, moco, swav, ...")] = None,
    sort: Annotated[Sort, typer.Option(help="score: the best first.")] = "name",
    tags: Annotated[bool, typer.Option("--tags", help="Every set of weights, not only the default of a name.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what `zoo info` tells, for all models.")] = False,
) -> None:
    """List models: input size, embedding size, parameters, published score, licence, size of the download."""
    from zoo.cli.model_json import print_list_json
    from zoo.cli.model_list import Filters, print_list

    filters = Filters(licence, max_params, method, sort, tags, names)
    print_list_json(filters) if json else print_list(filters)


@app.command(short_help="Show one model: weights, licence, source, preprocessing.")
def info(
    name: Annotated[
        str,
        typer.Argument(help="NAME or NAME.tag; a file, a folder or hf-hub:ORG/NAME.", autocompletion=completion.models),
    ],
    full: Annotated[bool, typer.Option("--full", help="All sets of weights, and the command of each score.")] = False,
) -> None:
    """Show one model: weights, licence, source, preprocessing, how to train it."""
    from zoo.cli.model_info import print_info

    print_info(name, full=full)


@app.command(short_help="Download official weights, verify and convert them.")
def fetch(
    name: Annotated[str, typer.Argument(help="NAME or NAME.tag of `zoo list`.", autocompletion=completion.models)],
    file: Annotated[Path | None, typer.Option(help="Use this official file instead of downloading it.")] = None,
) -> None:
    """Download official weights, verify and convert them; loading a model by name does the same."""
    from zoo.cli.messages import download_progress, print_fetched
    from zoo.hub.pretrained import fetch_by_name
    from zoo.system.verbosity import say

    with download_progress() as progress:
        folder = fetch_by_name(name, file=file, progress=progress)
    if folder is None:
        say(f"{name} ships with the package: there is nothing to fetch")
    else:
        print_fetched(folder)


@app.command(short_help="Write one ONNX file, from pixels to embeddings.")
def export(
    out: Annotated[Path, typer.Option(help="The file to write; .onnx is added where it is missing.")],
    model: Model = DEFAULT_MODEL,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale embeddings to length 1 inside the graph.")
    ] = False,
    pixels: Annotated[
        Pixels,
        typer.Option(
            help="Input. any: uint8 [N, H, W, 3] of any size, resized and cropped in the graph; crop: uint8, resized "
            "and cropped before; normalised: float32 [N, 3, S, S]."
        ),
    ] = "any",
    precision: Annotated[
        FilePrecision, typer.Option(help="Of the network; int8: static, weights per channel.")
    ] = "fp32",
    opset: Annotated[int, typer.Option(help="18, which most runtimes read, to 23.")] = 18,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs for int8; default: two in the package.", show_default=False),
    ] = None,
) -> None:
    """Export one self-contained ONNX file, from pixels to embeddings, after comparing it with torch on photographs."""
    from zoo.system.preflight import require_file_name, require_packages, require_path

    require_packages("zoo export", "onnx", "onnx", "onnxscript", "onnxruntime")
    if calibrate is not None:
        require_path(calibrate, f"no folder of photographs at {calibrate}")
    from zoo.api import load
    from zoo.cli.default_model import say_default
    from zoo.cli.messages import print_exported
    from zoo.export.export import Variant, export_onnx
    from zoo.hub.weights import locate
    from zoo.system.progress import Progress

    variant = Variant(pixels, precision, opset)
    if out.suffix != ".onnx" and out.name not in ("", ".."):
        out = out if out.is_dir() else out.with_name(f"{out.name}.onnx")
    require_file_name(out)
    if not model.endswith(".onnx"):
        locate(model)  # a wrong name is an error before a line of progress
    with Progress("steps") as progress:
        progress.say(f"opening {model}")
        embedder = load(model, device="cpu", normalize=normalize)
        exported = export_onnx(embedder, out, variant, calibrate=calibrate, report=progress.say)
    say_default(model)
    print_exported(exported, str(embedder.identity()["model"]) if calibrate is None else f"{model} calibrated so")


@app.command(short_help="Convert a checkpoint to a model, or to other key names.")
def convert(
    file: Annotated[str, typer.Argument(help="A checkpoint. With --to: NAME, folder or file of the zoo.")],
    out: Annotated[Path, typer.Option(help="A new folder. With --to: .safetensors, .pth or (detectron2) .pkl.")],
    from_: Annotated[
        CheckpointKind | None, typer.Option("--from", help="Kind of the file; default: auto, which finds out.")
    ] = None,
    to: Annotated[KeyNames | None, typer.Option(help="Library whose key names to write.")] = None,
    which: Annotated[Network, typer.Option(help="Network to take if the file has both.")] = "online",
    name: Annotated[str | None, typer.Option(help="Name of the new model; default: the file's name.")] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help="Prefix of the encoder's keys, before conv1.weight, if a file has several networks."),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the crop, pixels; default: the official code's, else 224.", show_default=False
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            min=1, help="Short side before the crop, pixels; default: likewise, else 256.", show_default=False
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="--from auto or torch: of each channel in 0..1, as 0.5,0.5,0.5; default: ImageNet's."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviations, as --mean.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="SPDX name; default: that of a published file, else unknown.")
    ] = None,
    bgr: Annotated[
        bool, typer.Option("--bgr", help="--from auto or torch: it takes BGR images (Caffe's); convert it to RGB.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Store convolutions in float16, BN in float32.")] = False,
) -> None:
    """Convert a checkpoint to a folder that loads everywhere, or an encoder to other libraries' key names.

    Nothing in the file is executed. Depth, width and stem are read from it.
    """
    from zoo.cli.messages import print_converted, print_renamed
    from zoo.errors import UserError
    from zoo.system.preflight import require_path

    # Two directions share this command, and a call takes one of them.
    if from_ is not None and to is not None:
        raise UserError("give --from (a checkpoint to a folder) or --to (an encoder to other key names), not both")
    if to is not None:
        from zoo.export.checkpoint_formats import rename

        print_renamed(rename(file, to, out))
        return
    # What is left is a checkpoint to convert.
    require_path(file, f"cannot read {file}: no such file")
    from zoo.cli.options import numbers
    from zoo.convert.convert import convert as run_conversion
    from zoo.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

    # The official codes say their preprocessing, other checkpoints leave it open.
    kind = from_ or "auto"
    preprocessing = None
    if kind in ("torch", "auto"):
        preprocessing = Preprocessing(
            input_size or 224,
            resize or 256,
            mean=IMAGENET_MEAN if mean is None else numbers("--mean", mean),
            std=IMAGENET_STD if std is None else numbers("--std", std),
        )
    elif mean is not None or std is not None:
        raise UserError(f"--mean and --std belong to --from auto and torch: {kind} says its own")
    print_converted(
        run_conversion(
            Path(file),
            kind,
            out,
            which=which,
            name=name,
            prefix=prefix,
            licence=licence,
            preprocessing=preprocessing,
            input_size=input_size,
            resize=resize,
            half=half,
            bgr=bgr,
        )
    )


@app.command(short_help="Upload a model, or a page with it, to a model hub.")
def publish(
    model: Annotated[
        str,
        typer.Argument(
            help="NAME or NAME.tag, a folder of `zoo convert`, or a .safetensors file.",
            autocompletion=completion.models,
        ),
    ],
    repo: Annotated[
        str | None, typer.Option(help="ORG/NAME on the model hub (HF_ENDPOINT, HF_TOKEN).", show_default=False)
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Publish a static Space instead: a page that embeds photographs in the browser.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the repository to this folder and send nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; default: main.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of `zoo evaluate` JSON files for the card.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Add an int8 ONNX file if it is accurate enough.")
    ] = True,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a README.md that was edited on the hub.")
    ] = False,
    web_runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="--space: folder dist of onnxruntime-web; default: npm gets it.", show_default=False
        ),
    ] = None,
) -> None:
    """Upload a model as one commit that zoo, timm, transformers, torch.hub and ONNX Runtime can load.

    Every loader is checked before; the upload is downloaded again and compared.
    """
    from zoo.errors import UserError
    from zoo.system.preflight import require_packages

    if (repo is None) == (space is None):
        raise UserError("give --repo ORG/NAME (a model) or --space OWNER/NAME (a page), one of them")

    require_packages("zoo publish", "onnx", "onnx", "onnxscript", "onnxruntime")
    if space is not None:
        if revision is not None or results is not None or overwrite_card:
            raise UserError("--revision, --results and --overwrite-card are for --repo: leave them out with --space")
        from zoo.cli.messages import print_published_space
        from zoo.publish.space import publish_space

        print_published_space(publish_space(model, space, dry_run=dry_run, private=private, web_runtime=web_runtime))
        return
    if web_runtime is not None:
        raise UserError("--web-runtime is for --space: leave it out with --repo")
    from zoo.cli.messages import print_published
    from zoo.publish.publish import publish as run_publish

    assert repo is not None
    result = run_publish(
        model,
        repo,
        dry_run=dry_run,
        private=private,
        revision=revision,
        results=results,
        int8=int8,
        overwrite_card=overwrite_card,
    )
    print_published(result)


@app.command(short_help="Write the card of a model.")
def card(
    name: Annotated[str, typer.Argument(help="NAME or NAME.tag with weights.", autocompletion=completion.models)],
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: that of model_cards/ in a checkout.")
    ] = None,
) -> None:
    """Write a model's card into model_cards/, from the registry and the measured JSON files there."""
    from zoo.publish.card.render import write

    print_line(write(name, out))
