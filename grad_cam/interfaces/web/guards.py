"""What guards the page: requests of other web sites are refused, and no failure shows a traceback."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import urllib.parse
from collections.abc import Sequence
from typing import Any

from starlette.responses import PlainTextResponse

__all__ = ["KnownHosts", "NoTracebacks"]

_log = logging.getLogger(__name__)


class NoTracebacks:
    """Answers requests that make gradio's own code fail, such as for a function that is not there; logs why.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def note(message: Any) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note)
        except (Exception, asyncio.CancelledError):  # cancelled: the page is closed while a connection is open
            if scope["type"] != "http":
                raise
            _log.info("a request was not answered", exc_info=True)
            if begun:
                await send({"type": "http.response.body", "body": b""})
            else:
                refusal = PlainTextResponse("The page cannot answer this request.", status_code=400)
                await refusal(scope, receive, send)


class KnownHosts:
    """Refuses what other web sites have a visitor's browser send to the page.

    A site can point its own name to this computer and read the answers as its own; the Host header still holds that
    name. It can also send a form without reading the answer; the Origin header says so.

    Args:
        app: The application behind it.
        host: Address the page listens at. Where that is every address of the computer, any number will do as Host,
            because only a name can be pointed elsewhere.
        names: Other names of this computer.
    """

    def __init__(self, app: Any, host: str = "127.0.0.1", names: Sequence[str] = ()) -> None:
        self._app, self._everywhere = app, host in ("0.0.0.0", "::")
        self._names = {name.lower() for name in ("localhost", "127.0.0.1", "::1", host, *names)}

    def knows(self, place: str) -> bool:
        """Whether a host, with a port or without, is this computer."""
        try:
            name = urllib.parse.urlsplit(f"//{place}").hostname or ""
            return name in self._names or self._everywhere and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            refusal = ""
            if not self.knows(host):
                refusal = f"This page is not at {host[:80]!r}: open it at the address that it was started with."
            elif origin is not None and origin.partition("://")[2] != host:
                refusal = f"This page takes no requests from {origin[:80]!r}."
            if refusal:
                await PlainTextResponse(refusal, status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)
