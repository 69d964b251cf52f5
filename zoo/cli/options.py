"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli import completion
from zoo.errors import UserError

Model = Annotated[
    str,
    typer.Option(
        help="NAME or NAME.tag of `zoo list`, or a path to .safetensors or .onnx.",
        show_default=True,
        autocompletion=completion.models,
    ),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of a list or table with the labels; default: label, class, ...")
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the GPU if there is one; with onnx the CPU.")
]


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Parse numbers with commas between them. Raises UserError: one is none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} takes numbers such as 0.5,0.5,0.5, not {text[:60]!r}") from None
