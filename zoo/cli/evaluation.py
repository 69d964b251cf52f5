"""Commands of evaluation: evaluate and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.cli import completion
from zoo.cli.options import Device, LabelColumn
from zoo.models.registry import DEFAULT_MODEL
from zoo.system.terminal import print_line

app = typer.Typer()

# the keys of zoo.evaluate.protocols.PROTOCOLS; a test compares them
Protocol = Literal[
    "knn",
    "linear",
    "linear-sgd",
    "linear-lars",
    "linear-moco",
    "semi-supervised",
    "transfer",
    "detect",
    "segment",
    "depth",
]


@app.command(short_help="Score a model on labelled images.")
def evaluate(
    protocol: Annotated[Protocol, typer.Argument(help="Evaluation protocol; the documentation describes each.")],
    data: Annotated[
        str,
        typer.Option(
            help="Folder with train and test (or val), as class folders or parquet; a list with labels, also "
            "DIR/{split}.csv; a Hugging Face folder; or NAME."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="As for `zoo extract`; NAME.random, or random, is the untrained network.",
            autocompletion=completion.models,
        ),
    ] = DEFAULT_MODEL,
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="option=value, an option of the protocol; repeatable.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="detect, segment, depth: small, or a published schedule; default: published.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of splits, crops and heads.")] = 0,
    root: Annotated[Path | None, typer.Option(help="Folder with the data sets that --data names.")] = None,
    label_column: LabelColumn = None,
    subset_files: Annotated[
        Path | None, typer.Option(help="semi-supervised: folder with 1percent.txt and 10percent.txt.")
    ] = None,
    device: Device = None,
) -> None:
    """Score a representation on labelled images and write one JSON file."""
    from zoo.evaluate.protocols import PACKAGES
    from zoo.system.hardware import require_device_name
    from zoo.system.preflight import require_given, require_packages, require_path

    # Say at once what needs no model.
    require_device_name(device)
    require_packages(f"zoo evaluate {protocol}", "eval", *PACKAGES.get(protocol, ()))
    require_given(data)
    if root is None:
        require_path(
            data,
            f"no data at {data}: give a folder with train/CLASS/ and test/CLASS/, or with a parquet, tar or npz file "
            "of each",
        )
    from zoo.cli.app import parse_assignments
    from zoo.cli.default_model import say_default
    from zoo.cli.messages import print_result
    from zoo.evaluate.run import evaluate as run_protocol

    result = run_protocol(
        protocol,
        model,
        Path(data),
        out=out,
        device=device,
        seed=seed,
        schedule=schedule,
        settings=parse_assignments(set_ or []),
        root=root,
        subset_files=subset_files,
        label_column=label_column,
    )
    say_default(model)
    print_result(result)


@app.command(short_help="Write the papers' tables with measured rows beside them.")
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders with JSON files of `zoo evaluate --out`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.md, report.html and the PNG files.")] = Path("report"),
    data: Annotated[
        str | None, typer.Option(help="Labelled data, as for `zoo evaluate`, to draw figures of images.")
    ] = None,
    label_column: LabelColumn = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model whose features are drawn; repeatable; needs --data.", autocompletion=completion.models
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Write the papers' tables with measured rows beside the published ones, and figures."""
    from zoo.errors import UserError
    from zoo.system.preflight import require_given, require_packages, require_path

    require_packages("zoo report", "eval", "matplotlib", *(["sklearn"] if data is not None else []))
    for folder in folders:
        require_path(folder, f"no folder {folder}: give one that `zoo evaluate --out` wrote to")
    from zoo.cli.default_model import say_default
    from zoo.report.generate import report as write

    # Features are drawn from images, so a model is of no use without data.
    if (model or label_column) and data is None:
        raise UserError(f"--{'model' if model else 'label-column'} needs --data: give labelled images")
    if data is not None:
        require_given(data)
    models = (model or [DEFAULT_MODEL]) if data is not None else []
    images = None if data is None else Path(data)
    for path in write(folders, out, data=images, models=models, device=device, label_column=label_column):
        print_line(path)
    for name in models:
        say_default(name)
