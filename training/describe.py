"""What the ``zoo-train`` command prints."""

from __future__ import annotations

from pathlib import Path

from training.recipes import RECIPES


def print_recipes() -> None:
    """A row per recipe."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "epochs", "batch", "lr", "size"):
        table.add_column(column, no_wrap=True)
    for name, recipe in RECIPES.items():
        config = recipe()
        optim = config.optim
        table.add_row(
            name, str(optim.epochs), str(optim.batch_size), f"{optim.name} {optim.lr:g}", f"{config.views.size}"
        )
    Console().print(table)


def print_trained(path: Path) -> None:
    """One line."""
    print(f"trained: {path}\nnext: zoo-train export {path.parent} --out ENCODER.safetensors")
