"""ASGI middleware that checks where a request comes from and sets security headers on every response."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class HostCheckMiddleware:
    """Refuses requests with a foreign Host (421) or from another site's page (403).

    A site can let its name resolve to 127.0.0.1, so that its script may read what this server answers (DNS rebinding).
    Such requests carry the site's name as Host, so only addresses and known names are accepted. A page of another site
    can also send requests here without reading the answers; those carry the site's Origin.

    Args:
        allowed_hosts: host names that requests may use, besides ``localhost`` and addresses.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed_hosts = {"localhost", *(name.lower() for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")

        # Refusals carry the security headers, too.
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    response_headers[name] = value
                response_headers.setdefault("cache-control", "no-store")
            await send(message)

        # A foreign name may be an attack by DNS rebinding.
        if not self._is_allowed(host):
            response = PlainTextResponse("this server does not go by that name\n", 421)
            await response(scope, receive, send_with_headers)
        elif origin is not None and _netloc(origin) != host.lower():
            response = PlainTextResponse("requests of other sites are refused\n", 403)
            await response(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _is_allowed(self, host: str) -> bool:
        if "@" in host:  # a Host has no user; "evil.example:80@localhost" would be read as localhost
            return False
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._allowed_hosts:
            return True
        # An address is safe, because rebinding needs a name.
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _netloc(origin: str) -> str | None:
    """Return host and port of an origin in lower case; ``None`` for what is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # "http://["
        return None
