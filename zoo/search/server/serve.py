"""The body of ``zoo serve``: open the collection, listen on a port, answer until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.search import umap_map
from zoo.search.collection import Collection
from zoo.search.image_source import recorded_images
from zoo.search.index import open_index
from zoo.search.pca_map import pca_points
from zoo.search.query import open_model
from zoo.search.thumbnails import Thumbnails
from zoo.search.umap_map import UmapMap

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI
from zoo.system.terminal import print_line
from zoo.system.verbosity import note

_OF_STRANGERS = (
    "Cancel %s running task",
    "Invalid HTTP request received",
    "Unsupported upgrade request",
    "No supported WebSocket library",
)


def serve(
    out: Path,
    *,
    images: str | None,
    host: str,
    port: int,
    named_only: bool = False,
    allowed_hosts: Sequence[str] = (),
    model: str | None = None,
    device: str | None = None,
) -> None:
    """Serve a collection until Ctrl-C or SIGTERM, then return.

    Args:
        out: folder that ``zoo index`` was run on.
        images: the source that was extracted, for thumbnails; ``None`` is what the run log of the result names.
        named_only: show names and no thumbnails.
        port: 0 chooses a free port.
        allowed_hosts: host names that requests may use, besides ``localhost`` and addresses.
        model: where the model is now, see ``zoo.search.query.open_model``.

    Raises:
        UserError: there is no index, the images of the run log are gone, the model is another one, the port is taken,
            or a package is missing.
    """
    # Import here, to say which package is missing.
    try:
        import uvicorn

        from zoo.search.server.app import create_app
        from zoo.search.server.served import ServedCollection
    except ImportError as error:
        raise UserError(f"zoo serve needs {error.name}: pip install 'siamese-zoo[search]'") from None
    # what can fail within a second comes before the model and the map
    collection = Collection(out)
    index = open_index(collection)
    if images is None and not named_only and (images := recorded_images(out)) is not None:
        print_line(f"pictures: {images}, by the run log of {out}; --no-images shows names only", file=sys.stderr)
    thumbnails = None if images is None or named_only else Thumbnails(collection, images)
    if thumbnails is not None and (problem := thumbnails.problem()) is not None:
        note(f"WARNING: {images} does not hold the pictures of {out} ({problem}): give --images what was extracted")
    has_umap = umap_map.is_installed() and index.info["indexed"] >= umap_map.LEAST
    # Hold the port while the model and the map load.
    with _listen(host, port) as listening:
        served = ServedCollection(
            collection,
            index,
            open_model(collection, model, device=device),
            pca_points(collection),
            thumbnails,
            allowed_hosts=[*allowed_hosts, host, socket.gethostname()] if not _is_local(host) else allowed_hosts,
            umap=UmapMap(collection) if has_umap else None,
        )
        app = create_app(served)
        try:
            with suppress(KeyboardInterrupt):  # the normal end; uvicorn raises it again after its shutdown
                # Give the address only when all is loaded.
                _announce(host, listening.getsockname()[1], thumbnails is not None or named_only)
                uvicorn.Server(server_config(app)).run(sockets=[listening])
        finally:
            app.state.close()
    print_line("stopped", file=sys.stderr)


def server_config(app: FastAPI) -> uvicorn.Config:
    """Return the settings of the server, which bound connections and waits, for strangers may connect."""
    import uvicorn

    from zoo.search.server.http_protocol import BoundedProtocol

    logging.getLogger("uvicorn.error").addFilter(_concerns_the_user)
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=3,
    )


def _concerns_the_user(record: logging.LogRecord) -> bool:
    """Return whether a message of uvicorn tells the user something.

    A request that is cut off at the end of the server is no error. What strangers send that is no HTTP, or asks for a
    WebSocket, is answered; a line for each would fill the terminal, with advice to install a library.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError) and not str(record.msg).startswith(_OF_STRANGERS)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        # Python appends the address, which the line has already.
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while attempting")[0]
        raise UserError(f"cannot listen on {host} port {port} ({reason}): choose another --port or --host") from None


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(host: str, port: int, knows_thumbnails: bool) -> None:
    url_host = f"[{host}]" if ":" in host else host
    print_line(f"http://{url_host}:{port}/  (Ctrl-C ends it)", flush=True)
    if not knows_thumbnails:
        print_line("NOTE: without --images DIR there are no thumbnails", file=sys.stderr, flush=True)
    if not _is_local(host):
        print_line(
            "WARNING: whoever reaches this port sees the pictures and can use /embed: there is no password and no "
            "encryption; --host 127.0.0.1 keeps it to this machine",
            file=sys.stderr,
            flush=True,
        )
