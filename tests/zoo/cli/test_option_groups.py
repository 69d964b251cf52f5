from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from zoo.cli.option_groups import grouped


@dataclass(frozen=True)
class Sizes:
    width: Annotated[int, typer.Option(min=1, help="Pixels.")]
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None


def test_the_fields_of_a_group_are_options_of_the_command() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    @grouped
    def resize(
        image: Annotated[Path, typer.Argument(help="A file.")],
        sizes: Sizes,
        fast: Annotated[bool, typer.Option("--fast")] = False,
    ) -> int:
        """Resize an image."""
        seen.append((image, sizes, fast))
        return 0

    run = CliRunner().invoke
    assert run(app, ["a.png", "--width", "3"]).exit_code == 0
    assert run(app, ["--fast", "--height", "4", "--width", "3", "a.png"]).exit_code == 0
    assert seen == [(Path("a.png"), Sizes(3), False), (Path("a.png"), Sizes(3, 4), True)]
    for words in (["a.png"], ["a.png", "--width", "0"], ["a.png", "--width", "3", "--sizes", "3"]):
        assert run(app, words).exit_code == 2
    assert "Resize an image." in run(app, ["--help"]).output
