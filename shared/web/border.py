"""What protects a web process at its border: headers of every answer, and the size of what comes in."""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class TooLarge(Exception):
    """A request has a body that is larger than anything that is asked for."""


class Border:
    """Adds `headers` to every answer, and ends a request whose body is too large before anything reads it whole."""

    def __init__(self, app: ASGIApp, *, headers: Mapping[str, str], body_bytes_max: int, is_secure: bool) -> None:
        self._app, self._headers, self._body_bytes_max = app, headers, body_bytes_max
        self._is_secure = is_secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = self._body_bytes_max + 1 if self._says_too_large(Headers(scope=scope)) else 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._body_bytes_max:
                raise TooLarge
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if self._is_secure:
                    headers.setdefault("strict-transport-security", "max-age=31536000")
            await send(message)

        await self._app(scope, receive_some, send_with_headers)

    def _says_too_large(self, headers: Headers) -> bool:
        length = headers.get("content-length", "0")
        return length.isascii() and length.isdecimal() and int(length[:20]) > self._body_bytes_max
