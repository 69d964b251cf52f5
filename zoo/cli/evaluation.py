"""Evaluation: a score, and scores beside the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.cli.options import Device
from zoo.models.registry import DEFAULT_MODEL

app = typer.Typer()

Protocol = Literal[
    "knn", "linear", "linear-sgd", "linear-lars", "semi-supervised", "transfer", "detect", "segment", "depth"
]


@app.command()
def evaluate(
    protocol: Annotated[Protocol, typer.Argument(help="How to score; README, Evaluate, says what each one does.")],
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
    from zoo.cli.app import assignments
    from zoo.cli.messages import print_result
    from zoo.evaluate.run import evaluate as run_protocol

    result = run_protocol(
        protocol,
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
