"""The commands on what ``zoo extract`` has made: verify, cat, index, search, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import Device
from zoo.errors import UserError
from zoo.search.limits import MAX_NEIGHBOURS
from zoo.system.preflight import require_path
from zoo.transforms.limits import MAX_PIXELS

app = typer.Typer()

Original = Annotated[
    str | None, typer.Option(help="What `zoo extract --images` was given, for thumbnails.", show_default=False)
]
SearchModel = Annotated[
    str | None, typer.Option(help="Where the model is now; default: the name in the manifest.", show_default=False)
]


@app.command(short_help="Check every hash and count of an extraction.")
def verify(out: Annotated[Path, typer.Argument(help="Folder of `zoo extract`.")]) -> None:
    """Check an extraction: every hash and count of its manifest is taken again. Exit code 2 names what differs.

    Where OUT holds the parts of `zoo plan`, each part is checked.
    """
    require_path(out, f"{out} has no _manifest.json: run the extraction to its end")
    from zoo.cli.messages import print_verified
    from zoo.embeddings.parts import result_folders
    from zoo.embeddings.verify import verify as run_verification

    for folder in result_folders(out):
        print_verified(run_verification(folder))


@app.command(short_help="Merge an extraction into one file.")
def cat(
    out: Annotated[Path, typer.Argument(help="Folder of `zoo extract`.")],
    file: Annotated[
        Path, typer.Argument(help="New .parquet; .csv or .jsonl; .npy or .safetensors, with a .parquet beside it.")
    ],
) -> None:
    """Verify an extraction, or all parts of `zoo plan`, and merge its shards into one file, which is read back."""
    require_path(out, f"{out} has no _manifest.json: run the extraction to its end")
    from zoo.cli.messages import print_merged
    from zoo.embeddings.merge import merge

    print_merged(merge(out, file))


@app.command(short_help="Make an extraction searchable.")
def index(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a finished `zoo extract`.")],
    exact: Annotated[
        bool | None, typer.Option("--exact/--graph", help="Default: exact below 10 000 images.", show_default=False)
    ] = None,
) -> None:
    """Make an extraction searchable; the recall against exact search is measured and printed."""
    _require_extraction(out)
    from zoo.search.collection import Collection
    from zoo.search.index import build
    from zoo.search.messages import print_index

    print_index(build(Collection(out), exact=exact), out)


@app.command(short_help="Show the nearest images of an extraction to other images.")
def search(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that `zoo index` was run on.")],
    queries: Annotated[list[Path], typer.Argument(metavar="QUERY...", help="Image files.")],
    k: Annotated[int, typer.Option("-k", min=1, max=MAX_NEIGHBOURS, help="Neighbours of each.")] = 9,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs no network.", show_default=False)] = None,
    caption: Annotated[
        str | None,
        typer.Option(metavar="COL", help="--html: a column of --keep, as caption and colour.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    images: Original = None,
    model: SearchModel = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger queries are not decoded.")] = MAX_PIXELS,
    device: Device = None,
) -> int:
    """The nearest images of an extraction to other images, by cosine.

    Exit code 0: all queries were read; 3: some were not (named at the end); 2: none was, or the command must change.
    """
    _require_extraction(out)
    from zoo.cli.search import run_search

    if caption is not None and html is None:
        raise UserError("--caption is for the page of --html: give both")
    return run_search(
        out,
        queries,
        k=k,
        html=html,
        caption=caption,
        json=json,
        images=images,
        model=model,
        max_pixels=max_pixels,
        device=device,
    )


@app.command(short_help="Serve a local page of an extraction: map, neighbours, filters.")
def serve(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that `zoo index` was run on.")],
    images: Annotated[
        str | None,
        typer.Option(
            help="What `zoo extract --images` was given, for thumbnails; default: as the run log says.",
            show_default=False,
        ),
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Show names, no thumbnails.")] = False,
    host: Annotated[str, typer.Option(help="Others than this machine's users can connect unless it is local.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that this machine goes by; repeatable.", show_default=False)
    ] = None,
    model: SearchModel = None,
    device: Device = None,
) -> None:
    """A local page: drop a photograph and see its neighbours, a map, all images; /embed for other programs."""
    _require_extraction(out)
    from zoo.search.server.serve import serve as run_server

    if images is not None and no_images:
        raise UserError("give --images or --no-images, not both")
    run_server(
        out,
        images=images,
        named_only=no_images,
        host=host,
        port=port,
        allowed_hosts=allow_host or (),
        model=model,
        device=device,
    )


def _require_extraction(out: Path) -> None:
    require_path(out, f"{out} is no finished extraction: run `zoo extract --out {out}` to its end")
