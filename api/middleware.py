"""What every request passes before a route sees it: an id, an allow-list, a size limit.

Owns three pure ASGI layers. They read headers and count bytes; they must not buffer bodies, touch
the database or block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from service import errors, ids

REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
READ_ONLY = frozenset({"GET", "HEAD", "OPTIONS"})

# A refused body is read on for this much, so that a client still sending sees the answer
# instead of a reset connection.
DRAIN_BYTES = 1 << 20


class RequestId:
    """Gives every request an id, the caller's if it sent a plain one, and returns it.

    What nobody else caught ends here, with its traceback in the log under that id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else ids.new("req")
        scope.setdefault("state", {})["request_id"] = request_id

        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            answer = problems.of_a_bug(error, scope)
            if started:
                raise  # cuts the connection: nothing that was begun may look complete
            await answer(scope, receive, send_with_id)


class AllowedHosts:
    """Answers only to known names.

    A page on the web may point its own name at 127.0.0.1 (DNS rebinding) or post a form to it. The
    first is seen in Host, the second in Origin. `allowed` are host names without ports; `*` allows
    every name.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self.app = app
        self.allowed = frozenset(name.strip("[]").lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(Headers(scope=scope))
            if refusal is not None:
                await problems.response(refusal, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, headers: Headers) -> errors.HostNotAllowed | None:
        if "*" in self.allowed:
            return None
        host = headers.get("host", "")
        if _hostname(f"//{host}") not in self.allowed:
            return errors.HostNotAllowed(f"this service does not answer to the Host {host!r}")
        origin = headers.get("origin")
        if origin is not None and _hostname(origin) not in self.allowed:
            return errors.HostNotAllowed(f"requests from the Origin {origin!r} are not accepted")
        return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


class BodyLimit:
    """Refuses a body over `limit` bytes, by its announced length or as soon as it is exceeded.

    `limits` are those of single routes, by verb and path.
    """

    def __init__(
        self, app: ASGIApp, limit: int, limits: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        self.app = app
        self.limit = limit
        self.limits = limits or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limits.get((scope["method"], scope["path"]), self.limit)
        announced = Headers(scope=scope).get("content-length", "")
        # Python refuses to read numbers of thousands of digits.
        if announced.isdecimal() and int(announced[:18]) > limit:
            await self._drain(receive)
            error = self._error(limit, f"{int(announced[:18]):,} bytes or more were announced")
            await problems.response(error, scope, {"Connection": "close"})(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    if message.get("more_body"):
                        await self._drain(receive)
                    raise self._error(limit, "the body went on beyond it")
            return message

        await self.app(scope, counted, send)

    @staticmethod
    def _error(limit: int, what: str) -> errors.BodyTooLarge:
        return errors.BodyTooLarge(f"the limit is {limit:,} bytes; {what}")

    @staticmethod
    async def _drain(receive: Receive) -> None:
        read = 0
        while read < DRAIN_BYTES:
            message = await receive()
            read += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                return
