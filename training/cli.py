"""The arguments of the ``zoo-train`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.app import add_verbosity, new_app, run
from zoo.cli.options import LabelColumn
from zoo.errors import UserError
from zoo.system.terminal import print_line

app = new_app(
    "Train siamese networks and their baselines, resume, and export encoders for the zoo.",
    "Begin with `zoo-train recipes --for-data IMAGES --size PIXELS`.",
)


def _recipes_beginning(incomplete: str) -> list[str]:
    """Return what Tab completes a recipe to."""
    from training.recipes.table import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


Recipe = Annotated[
    str,
    typer.Argument(
        help="Name from `zoo-train recipes`, or MODULE:NAME, FILE.py:NAME.", autocompletion=_recipes_beginning
    ),
]


@app.command(short_help="List recipes, or recommend one for your images.")
def recipes(
    name: Annotated[str, typer.Argument(metavar="[TEXT]", help="Only names with this text.")] = "",
    method: Annotated[str | None, typer.Option(help="Such as byol; another word lists all.")] = None,
    data: Annotated[str | None, typer.Option(help="imagenet, cifar10 or tiny.")] = None,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, at most.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Also learning rate, views, hardware and the source of the score.")
    ] = False,
    for_data: Annotated[
        int | None, typer.Option("--for-data", min=1, help="Recommend one recipe for so many images of your own.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="--for-data: short side of the images, pixels.")] = None,
    device: Annotated[str | None, typer.Option(help="--for-data: cpu or gpu; default: what is here.")] = None,
    memory: Annotated[
        float | None, typer.Option(help="--for-data: GB of that device; default: what this machine has.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="--for-data: train some steps here to know the hours.")
    ] = False,
) -> None:
    """List recipes, with the papers' results for them; or recommend one for your images (--for-data)."""
    from training.messages import RecipeFilters, print_recipes

    given = {"--size": size, "--device": device, "--memory": memory, "--measure": measure or None}
    if for_data is not None:
        if name or method or data or max_epochs or full:
            raise UserError("--for-data recommends one recipe: leave the name and the filters out")
        if size is None:
            raise UserError("--for-data needs --size: the short side of your images in pixels")
        from training.messages import print_recommendation

        print_recommendation(for_data, size, device, memory, measured=measure)
        return
    if wrong := [option for option, value in given.items() if value is not None]:
        raise UserError(f"{wrong[0]} needs --for-data: the number of your images")
    print_recipes(RecipeFilters(name, method, data, max_epochs), full=full)


@app.command("run", short_help="Train.")
def run_recipe(
    recipe: Recipe,
    data: Annotated[
        str,
        typer.Option(
            help="Folder of images; parquet, tar (shard-{000..009}.tar), .npy or .npz file; folder with train/ or "
            "train*.parquet; a list (.txt, .csv), a glob, a URL, a Hugging Face folder; torchvision:NAME:ROOT."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and log.jsonl.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="field=value, e.g. optim.lr=0.3; repeatable.")] = None,
    label_column: LabelColumn = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from OUT's last checkpoint.")] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the whole run; with --resume the run is extended.")
    ] = None,
    change: Annotated[
        bool, typer.Option("--change", help="With --resume: other epochs, lr, batch size, accumulate, patience.")
    ] = False,
    init: Annotated[
        str | None, typer.Option(help="Start the encoder from these weights: a name of the zoo, a folder or a file.")
    ] = None,
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Decode all images once and keep them; for small images.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="As --logger tensorboard.")] = False,
    logger: Annotated[
        list[str] | None, typer.Option(help="Log there too: tensorboard, wandb or mlflow; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the GPU if there is one.")] = None,
) -> None:
    """Train. If the run is killed, `--resume` continues from the last checkpoint with the same results."""
    from zoo.system.hardware import require_device_name
    from zoo.system.preflight import require_packages

    require_device_name(device)
    if tensorboard:
        require_packages("--tensorboard", "train", "tensorboard")
    from training.launch import launch
    from training.messages import print_trained

    loggers = [*(["tensorboard"] if tensorboard else []), *(logger or [])]
    settings = [*(set_ or []), *([f"optim.epochs={epochs}"] if epochs else [])]
    changing = {"optim.epochs"} if epochs and resume else set()
    if change:
        changing |= {"optim.lr", "optim.batch_size", "accumulate", "optim.epochs", "early_stop_patience"}
    path = launch(recipe, data, out, overrides=settings, device=device, resume=resume, in_memory=in_memory,
                  loggers=loggers, changing=changing, init=init, label_column=label_column)  # fmt: skip
    print_trained(path)


@app.command(short_help="Run one of the papers' ablations.")
def ablate(
    name: Annotated[str, typer.Argument(help="target, beta, batch-size, views or stop-gradient.")],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images, as for `run`; with the splits train and test (or val), or a fifth of each class is "
            "held out."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for cells, NAME.json and NAME.png; finished cells are not run again.")
    ],
    seeds: Annotated[int, typer.Option(help="Runs of each row; intervals need two or more.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="The published setting: R50, batch 4096, 300 epochs.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value for all rows, e.g. optim.epochs=8; repeatable.")
    ] = None,
    label_column: LabelColumn = None,
    images: Annotated[int | None, typer.Option(min=1, help="Training images to use; default: 5000.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the GPU if there is one.")] = None,
) -> None:
    """Run one of the papers' ablations and print it beside the published table; minutes to an hour on two cores."""
    from zoo.system.hardware import require_device_name
    from zoo.system.preflight import require_given, require_packages, require_path

    require_device_name(device)
    require_packages("zoo-train ablate", "train", "matplotlib", "scipy")
    require_given(data)
    require_path(data, f"no data at {data}: give a folder of images, a parquet, tar or npz file or a folder of them")
    from training.launch import launch_ablation
    from training.messages import print_ablation, print_progress

    sets = set_ or []
    result = launch_ablation(name, data, out, seeds=seeds, full=full, overrides=sets, images=images, device=device,
                             report=print_progress, label_column=label_column)  # fmt: skip
    print_ablation(result, out)


@app.command(short_help="Train with each combination of some values, and rank them.")
def sweep(
    recipe: Recipe,
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images, as for `run`; with the splits train and test (or val), or a fifth of each class is "
            "held out."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the runs and sweep.json; finished runs are not run again.")],
    over: Annotated[list[str], typer.Option("--over", help="FIELD=VALUE,VALUE, e.g. optim.lr=0.05,0.1; repeatable.")],
    halving: Annotated[
        int | None, typer.Option(min=2, help="Successive halving: short runs first, one in so many goes on.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value for all runs, e.g. optim.epochs=8; repeatable.")
    ] = None,
    label_column: LabelColumn = None,
    images: Annotated[int | None, typer.Option(min=2, help="Training images to use; default: all.")] = None,
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Decode all images once and keep them; for small images.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the GPU if there is one.")] = None,
) -> None:
    """Train a recipe with each combination of some values, and rank them by kNN on held-out images."""
    from zoo.system.hardware import require_device_name
    from zoo.system.preflight import require_given, require_path

    require_device_name(device)
    require_given(data)
    require_path(data, f"no data at {data}: give a folder of images, a parquet, tar or npz file or a folder of them")
    from training.launch import launch_sweep
    from training.messages import print_progress, print_sweep

    result = launch_sweep(recipe, data, out, over=over, overrides=set_ or [], halving=halving, images=images,
                          in_memory=in_memory, device=device, report=print_progress,
                          label_column=label_column)  # fmt: skip
    print_sweep(result, out)


@app.command(short_help="Write the encoder of a run, for `zoo extract --model`.")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint-*.pt, or the folder of a run.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    input_size: Annotated[
        int | None, typer.Option(min=1, help="Crop in pixels; default: size of the training views.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Short side before the crop; default: crop / 0.875.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Convolutions in float16, BN in float32.")] = False,
    licence: Annotated[str, typer.Option(help="SPDX name of the licence that you give the weights.")] = "unknown",
    method: Annotated[
        str | None, typer.Option(metavar="MODULE:CLASS", help="The method, if it is your own: its module is imported.")
    ] = None,
) -> None:
    """Write the encoder as safetensors for `zoo extract --model` and `zoo.load`, with its card and heads."""
    from zoo.system.preflight import require_path

    require_path(checkpoint, f"no checkpoint at {checkpoint}")
    from training.results.export import COMPANION_SUFFIXES
    from training.results.export import export as write

    sha256 = write(checkpoint, out, input_size=input_size, resize=resize, half=half, method=method, licence=licence)
    print_line(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {sha256}")
    print_line("beside it: " + ", ".join(out.with_suffix(s).name for s in COMPANION_SUFFIXES))


@app.command(short_help="Draw the curves of runs.")
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="The figure to write: .png, .pdf or .svg.")] = Path("curves.png"),
) -> None:
    """Draw the logs of runs: losses, accuracies, spread and rank of the outputs, gradient norm, lr, tau."""
    from zoo.system.preflight import require_packages

    require_packages("zoo-train plot", "train", "matplotlib")
    from training.results.plot import plot as draw

    print_line(f"{out}: {', '.join(draw(runs, out))}")


@app.command(short_help="Write the summary of a run, for its model card.")
def summary(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for training.json and curve.png.")],
) -> None:
    """Write the summary of a run for its model card: recipe, data, hardware, minutes, curves."""
    from zoo.system.preflight import require_packages, require_path

    require_packages("zoo-train summary", "train", "matplotlib")
    require_path(run_folder, f"{run_folder} holds no checkpoint: give the folder of a run")
    from training.results.summary import summarise

    facts = summarise(run_folder, out)
    print_line(f"{out}: {facts['steps']} steps, {facts['minutes']} minutes on {facts['hardware']}")


add_verbosity(app)


def main() -> None:
    """Entry point of ``zoo-train``."""
    run(app, "zoo-train", resume_hint="run the same command again to go on (`run` with --resume)")
