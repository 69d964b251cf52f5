"""``zoo demo``: from an installed package to a page of pictures, by one command."""

from __future__ import annotations

import shutil
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import Device, Model
from zoo.errors import UserError
from zoo.models.registry import DEFAULT_MODEL
from zoo.system.terminal import print_line
from zoo.system.verbosity import note

app = typer.Typer()

PAGE = "_neighbours.html"  # readers of Parquet folders pass over names that begin with _
QUERIES = ("cat_kitten.jpg", "flower_dahlia.jpg", "mountain_picos.jpg", "pyramid_giza.jpg", "horses_meadow.jpg")
_NEIGHBOURS = 5  # a row of the page: the photograph itself, and four others


@app.command(short_help="Embed the example photographs and show their neighbours.")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the photographs, the embeddings and the page.")] = Path(
        "zoo-demo"
    ),
    model: Model = DEFAULT_MODEL,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    device: Device = None,
) -> None:
    """Embed the 24 example photographs and show the nearest neighbours of five of them on a page."""
    from zoo.system.preflight import require_folder
    from zoo.system.shipped import shipped_folder

    source = shipped_folder("photos")
    if not source.is_dir():
        raise UserError(f"{source} is missing: install siamese-zoo again")
    from zoo import api
    from zoo.cli.messages import print_extraction, print_opened
    from zoo.cli.model_info import default_note, is_demo
    from zoo.search import html_report
    from zoo.search.collection import Collection
    from zoo.search.index import build, open_index
    from zoo.search.query import open_model, search
    from zoo.search.thumbnails import Thumbnails
    from zoo.transforms.limits import MAX_PIXELS

    # The photographs become files of the user's: the other commands can be tried with them.
    require_folder(out)
    photos, result = out / "photos", out / "embeddings"
    try:
        shutil.copytree(source, photos, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {photos} ({error.strerror or error}): choose another --out") from None
    print_extraction(api.extract(photos, result, model=model, device=device, on_open=print_opened), result)
    collection = Collection(result)
    build(collection)
    # The page holds its pictures, so that it needs neither a server nor a network.
    index, page = open_index(collection), out / PAGE
    queries = [photos / name for name in QUERIES]
    embedder = open_model(collection, None if model == DEFAULT_MODEL else model, device=device)
    results = search(collection, index, embedder, queries, k=_NEIGHBOURS, max_pixels=MAX_PIXELS)
    html_report.write(page, collection, results, Thumbnails(collection, str(photos)), centred=index.is_centred)
    if is_demo(collection.model):
        note(default_note())
    print_line(page)
    note(f"next: zoo serve {result} --images {photos}   your own: zoo extract IMAGES --out OUT")
    if browser:
        webbrowser.open(page.resolve().as_uri())
