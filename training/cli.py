"""The ``zoo-train`` command: arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.command_line import new_app, run

app = new_app("Train BYOL and SimSiam, resume, and export encoders for the zoo.")


@app.command()
def recipes() -> None:
    """All recipes, with what the papers report for them."""
    from training.describe import print_recipes

    print_recipes()


@app.command("run")
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="Name from `zoo-train recipes`.")],
    data: Annotated[
        Path, typer.Option(help="Folder of images, parquet file, or folder with train/ or train*.parquet.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and log.jsonl.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="field=value, e.g. optim.lr=0.3; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT's last checkpoint.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the GPU if there is one.")] = None,
) -> None:
    """Train; killed at any moment, `--resume` goes on from the last checkpoint with the same results."""
    from training.describe import print_trained
    from training.launch import launch

    print_trained(launch(recipe, data, out, overrides=set_ or [], device=device, resume=resume))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint-*.pt, or the folder of a run.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    input_size: Annotated[int | None, typer.Option(min=1, help="Crop in pixels; default: the training views'.")] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Short side before the crop; default: crop / 0.875.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Convolutions in float16, BN in float32.")] = False,
) -> None:
    """Write the encoder as safetensors for `zoo extract --model` and `zoo.load`."""
    from training.to_zoo import export as write

    sha256 = write(checkpoint, out, input_size=input_size, resize=resize, half=half)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {sha256}")


@app.command()
def summary(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for training.json and curve.png.")],
) -> None:
    """Write what a model card states of a run: recipe, data, hardware, minutes, curves."""
    from training.summary import summarise

    facts = summarise(run_folder, out)
    print(f"{out}: {facts['steps']} steps, {facts['minutes']} minutes on {facts['hardware']}")


def main() -> None:
    """Entry point of ``zoo-train``."""
    run(app, "zoo-train", go_on="the same command with --resume goes on from the last checkpoint")
