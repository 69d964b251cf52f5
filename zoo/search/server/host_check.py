"""What every request passes first: whose browser asks, and what the answer may do there."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Refuses requests that name another host, or come from another site's page.

    A site can let its name point to 127.0.0.1 and its script then reads whatever answers (DNS rebinding). Its
    requests name that site, so a Host that is neither an address nor a known name is refused. A page of another
    site can send requests here without reading the answers; those carry its Origin and are refused as well.

    Args:
        names: hosts that may be named, besides ``localhost`` and addresses.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer[name] = value
                answer.setdefault("cache-control", "no-store")
            await send(message)

        if not self._is_known(host):
            refused = PlainTextResponse("this server does not go by that name\n", 421)
            await refused(scope, receive, guarded)
        elif origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            await PlainTextResponse("requests of other sites are refused\n", 403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
