"""``zoo demo``: from an installed package to a page of pictures, by one command."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import Device, Model
from zoo.errors import UserError
from zoo.models.registry import DEFAULT_MODEL
from zoo.system.terminal import print_line
from zoo.system.verbosity import note

if TYPE_CHECKING:
    from zoo.search.query import QueryResult

app = typer.Typer()

PAGE = "_neighbours.html"  # readers of Parquet folders pass over names that begin with _
QUERIES = ("cat_kitten", "flower_dahlia", "mountain_picos", "pyramid_giza", "horses_meadow")
_NEIGHBOURS = 5  # in a row of the page, beside the crop that was asked for


@app.command(short_help="Embed the example photographs and show their neighbours.")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the photographs, the embeddings and the page.")] = Path(
        "zoo-demo"
    ),
    model: Model = DEFAULT_MODEL,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    device: Device = None,
) -> None:
    """Embed the 24 example photographs and crops of them, and show the nearest neighbours of five crops on a page.

    The photographs and their embeddings stay in the folder, to try the other commands with.
    """
    from zoo.system.preflight import require_folder
    from zoo.system.shipped import shipped_folder

    source = shipped_folder("photos")
    if not source.is_dir():
        raise UserError(f"{source} is missing: install siamese-zoo again")
    from zoo import api
    from zoo.cli.default_model import default_note, is_demo
    from zoo.cli.demo_crops import write_crops
    from zoo.cli.messages import print_extraction, print_opened
    from zoo.search import html_report
    from zoo.search.collection import Collection
    from zoo.search.index import build, open_index
    from zoo.search.query import open_model, search
    from zoo.search.thumbnails import Thumbnails
    from zoo.system.atomic_files import copy_tree
    from zoo.transforms.limits import MAX_PIXELS

    # The photographs become files of the user's: the other commands can be tried with them.
    require_folder(out)
    photos, result = out / "photos", out / "embeddings"
    copy_tree(source, photos)
    print_extraction(api.extract(photos, result, model=model, device=device, on_open=print_opened), result)
    build(Collection(result))
    crops, searched = out / "crops", out / "crop_embeddings"
    write_crops(sorted(path for path in photos.iterdir() if path.suffix in (".jpg", ".png")), crops)
    print_extraction(api.extract(crops, searched, model=model, device=device), searched)
    collection = Collection(searched)
    build(collection)
    # The page holds its pictures, so that it needs neither a server nor a network.
    index, page = open_index(collection), out / PAGE
    queries = [crops / f"{name}-0.jpg" for name in QUERIES]
    embedder = open_model(collection, None if model == DEFAULT_MODEL else model, device=device)
    found = search(collection, index, embedder, queries, k=_NEIGHBOURS + 1, max_pixels=MAX_PIXELS)
    html_report.write(
        page,
        collection,
        [_of_others(one) for one in found],
        Thumbnails(collection, str(crops)),
        centred=index.is_centred,
    )
    if is_demo(collection.model):
        note(default_note())
    print_line(page)
    note(f"next: zoo serve {searched} --images {crops}   your own: zoo extract IMAGES --out OUT")
    if browser:
        webbrowser.open(page.resolve().as_uri())


def _of_others(result: QueryResult) -> QueryResult:
    """Leave the query itself out of its neighbours."""
    others = [match for match in result.neighbours if match.item.name != result.file.name]
    return replace(result, neighbours=tuple(others[:_NEIGHBOURS]))
