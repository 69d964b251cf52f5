"""``zoo serve`` from open to Ctrl-C."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from zoo.errors import UserError
from zoo.search.collection import Collection
from zoo.search.index import open_index
from zoo.search.pca_map import places
from zoo.search.query import open_model
from zoo.search.thumbnails import Pictures


def serve(
    out: Path,
    *,
    images: str | None,
    host: str,
    port: int,
    names: Sequence[str] = (),
    model: str | None = None,
    device: str | None = None,
) -> None:
    """Serves a collection until Ctrl-C or SIGTERM, then ends by itself.

    Args:
        port: 0 is any that is free.
        names: hosts that requests may name besides addresses and localhost.

    Raises:
        UserError: no index, another model, a port that is taken, or a package that is not installed.
    """
    try:
        import uvicorn

        from zoo.search.server.app import Gallery, create_app
        from zoo.search.server.request_limits import Limits
    except ImportError as error:
        raise UserError(f"zoo serve needs {error.name}: pip install 'siamese-zoo[search]'") from None
    collection = Collection(out)
    index = open_index(collection)
    pictures = None if images is None else Pictures(collection, images)
    listening = _listen(host, port)
    with listening:
        gallery = Gallery(
            collection,
            index,
            open_model(collection, model, device=device),
            places(collection),
            pictures,
            Limits(),
            [*names, host, socket.gethostname()] if not _is_local(host) else names,
        )
        _announce(host, listening.getsockname()[1], pictures is not None)
        config = uvicorn.Config(
            create_app(gallery),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=256,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
        )
        with suppress(KeyboardInterrupt):  # how it is meant to end; uvicorn raises it again once all is closed
            uvicorn.Server(config).run(sockets=[listening])
    print("stopped", file=sys.stderr)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host} port {port} ({said}): choose another --port or --host") from None


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(host: str, port: int, pictures: bool) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}/  (Ctrl-C ends it)", flush=True)
    if not pictures:
        print("NOTE: without --images DIR there are no thumbnails", file=sys.stderr, flush=True)
    if not _is_local(host):
        print(
            "WARNING: whoever reaches this port sees the pictures and can use /embed: there is no password and no "
            "encryption; --host 127.0.0.1 keeps it to this machine",
            file=sys.stderr,
            flush=True,
        )
