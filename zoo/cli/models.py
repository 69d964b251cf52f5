"""Models: which there are, their files, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.cli.options import Model
from zoo.models.registry import DEFAULT_MODEL

app = typer.Typer()

FilePrecision = Literal["fp32", "fp16", "int8"]
Pixels = Literal["any", "crop", "normalised"]
Kind = Literal["deepmind-byol", "simsiam", "moco", "swav", "simclr", "torch"]
Names = Literal["torchvision", "timm", "detectron2"]
Which = Literal["online", "target"]


@app.command("list")
def list_models(
    json: Annotated[bool, typer.Option("--json", help="All that `zoo info` tells, of every model.")] = False,
) -> None:
    """All models: architecture, embedding length, parameters, weights."""
    from zoo.cli.messages import print_list, print_list_json

    print_list_json() if json else print_list()


@app.command()
def info(name: Annotated[str, typer.Argument(help="NAME or NAME.tag.")]) -> None:
    """One model: weights, licence, source, preprocessing, how to train it."""
    from zoo.cli.messages import print_info

    print_info(name)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="NAME or NAME.tag of `zoo list`.")],
    file: Annotated[Path | None, typer.Option(help="The official file, if it is here already.")] = None,
) -> None:
    """Download official weights, verify and convert them, into the cache; loading them by name does the same."""
    from zoo.cli.messages import megabytes, print_fetched
    from zoo.hub.pretrained import fetch_by_name

    with megabytes() as progress:
        folder = fetch_by_name(name, file=file, progress=progress)
    print_fetched(folder)


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
    ] = "any",
    precision: Annotated[FilePrecision, typer.Option(help="int8 is static, weights per channel.")] = "fp32",
    opset: Annotated[int, typer.Option(help="From 18, which most runtimes read, to 23.")] = 18,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of photographs for int8; default: two that ship.", show_default=False)
    ] = None,
) -> None:
    """Write one self-contained ONNX file, once it agrees with torch on real photographs: pixels in, embeddings out."""
    from zoo.api import load
    from zoo.cli.messages import print_exported
    from zoo.export.export import Variant, export_onnx

    variant = Variant(pixels, precision, opset)
    embedder = load(model, device="cpu", normalize=normalize)
    print_exported(export_onnx(embedder, out, variant, calibrate=calibrate))


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="An official file for --from; NAME, folder or file for --to.")],
    out: Annotated[Path, typer.Option(help="New folder for --from; for --to .safetensors, .pth or (detectron2) .pkl.")],
    from_: Annotated[Kind | None, typer.Option("--from", help="Whose file it is.")] = None,
    to: Annotated[Names | None, typer.Option(help="Whose key names to write.")] = None,
    which: Annotated[Which, typer.Option(help="Network, where the file has both.")] = "online",
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
    from zoo.cli.messages import print_converted, print_renamed
    from zoo.errors import UserError

    if (from_ is None) == (to is None):
        raise UserError("give --from (an official file to a folder) or --to (an encoder to other key names)")
    if to is not None:
        from zoo.export.checkpoint_formats import rename

        print_renamed(rename(file, to, out))
        return
    assert from_ is not None
    from zoo.convert.convert import convert as run_conversion
    from zoo.transforms.preprocess import Preprocessing

    chosen = Preprocessing(input_size, resize) if from_ == "torch" else None
    print_converted(
        run_conversion(
            Path(file),
            from_,
            out,
            which=which,
            name=name,
            prefix=prefix,
            licence=licence,
            preprocessing=chosen,
            half=half,
        )
    )


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
    from zoo.cli.messages import print_published
    from zoo.publish.publish import publish as run_publish

    done = run_publish(model, repo, dry_run=dry_run, private=private, revision=revision, results=results, int8=int8)
    print_published(done)


@app.command()
def card(name: Annotated[str, typer.Argument(help="NAME or NAME.tag with weights.")]) -> None:
    """Write the card of a model into model_cards/, from the registry and the measured JSON files there."""
    from zoo.publish.card.render import write

    print(write(name))
