"""The application: three questions, each with its own answer, and one way to say that there is none."""

import asyncio
import time
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from fastapi import FastAPI, Query, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.invoice.door.reader import AskedFor, DoorAnswer, Reader
from services.invoice.door.tokens import TokenReader
from services.invoice.door.views import ToldCommand, ToldInvoice, ToldPayment
from services.invoice.door.waiting import NoRoomError, WaitingRoom
from shared.build import this_build
from shared.clock import Clock
from shared.observability import metrics
from shared.observability.logs import describe_error
from shared.persistence.database import Database, Trouble, trouble
from shared.persistence.unreadable import UnreadableRowsError
from shared.records import dataclass
from shared.web.border import Border, TooLarge
from shared.web.limiter import Limiter, network_of_client
from shared.web.problems import MEDIA_TYPE, error_number, title_of
from shared.web.strangers import TooManyWrongError

log = structlog.get_logger(__name__)

WAIT_MAX_S: Final = 30.0
"""How long a request may wait. Most proxies end one that takes 60 s."""
ASKED_BURST, ASKED_EVERY_S = 2_000, 0.005
"""Requests of one sender to one process: a thousand wait at once with room for more; then 200 a second."""
BODY_BYTES_MAX: Final = 1_024
"""A question has no body."""
AWAY_FOR_S: Final = 5
"""When to ask again after a failure of ours."""
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_ABOUT: Final = (
    "A sender asks with a token for what messages tell it: the one answer to a command, what became of a payment, how an invoice is. "
    "The `data` of answers and events have the bytes that messages have. With `wait`, a request waits until nothing is `under_way`."
)
_UNKNOWN: Final = (
    "Nothing is known of this here: it has not arrived, it waits in its queue, or it is not yours. "
    "That is no answer: ask again, with wait=30."
)
_NO_SUCH_ID: Final = {
    AskedFor.COMMAND: "The id of a command is a UUID, written with hyphens: the id of the event that you sent.",
    AskedFor.PAYMENT: "The id of a payment is a UUID, written with hyphens: the payment_id of your PayInvoice.",
    AskedFor.INVOICE: "No invoice can have this id: it is too long, or has signs or a card number in it that no id may have.",
}


@dataclass(frozen=True, slots=True)
class Door:
    """The parts of the door."""

    database: Database
    reader: Reader
    room: WaitingRoom
    clock: Clock


class DoorCode(StrEnum):
    """Why there is no answer: codes for programs. The page for senders says what to do."""

    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105 - a code
    UNKNOWN = "unknown"
    NO_SUCH_ID = "no_such_id"
    NO_SUCH_ADDRESS = "no_such_address"
    NOT_SO = "not_so"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    TOO_OFTEN = "too_often"
    AWAY = "away"
    FAILED = "failed"


class DoorProblem(BaseModel):
    """Why there is no answer (`application/problem+json`, RFC 9457). `code` is for programs."""

    type: str = "about:blank"
    title: str
    status: int
    code: DoorCode
    detail: str
    number: str | None = None


class NotTold(Exception):
    """There is no answer, for this reason."""

    def __init__(self, status: int, code: DoorCode, detail: str, **headers: str) -> None:
        super().__init__(code)
        self.problem = DoorProblem(title=title_of(status), status=int(status), code=code, detail=detail)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


_bearer = HTTPBearer(auto_error=False, description="A token that `remit senders tokens add` made.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=WAIT_MAX_S,
        description="Seconds to wait for an answer or an outcome. A thing that is not known is waited for as well.",
    ),
]
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": DoorProblem, "description": description}
    for status, description in {
        401: "No token, or none that holds.",
        404: "Not known, or of another sender: the two look the same. With the code `no_such_id`: nothing can have this id.",
        422: "`wait` is no number of seconds that one may wait.",
        429: "Too many wrong tokens, too many requests, or too many that wait. `Retry-After` says when to ask again.",
        503: "The database does not answer. `Retry-After` says when to ask again.",
    }.items()
}


def make_app(door: Door) -> FastAPI:
    """The application of this door."""
    app = FastAPI(
        title="The door of Remit",
        summary="Ask what became of commands, payments and invoices.",
        version=this_build().version,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_PROBLEMS,
    )
    asker = Asker(door)

    @app.get("/commands/{id}", response_model=ToldCommand, summary="The answer to a command")
    async def command(id: str, request: Request, credentials: Credentials, wait: Wait = 0) -> Response:  # noqa: A002 - its public name
        """The one answer, or that the command is set aside. `id` is the one that its sender gave it."""
        return await asker.ask(AskedFor.COMMAND, id, request, credentials, wait)

    @app.get("/payments/{id}", response_model=ToldPayment, summary="What became of a payment")
    async def payment(id: str, request: Request, credentials: Credentials, wait: Wait = 0) -> Response:  # noqa: A002
        """The outcome, or that it is still to come, with all that was told of the payment. `id` is its `payment_id`."""
        return await asker.ask(AskedFor.PAYMENT, id, request, credentials, wait)

    @app.get("/invoices/{id:path}", response_model=ToldInvoice, summary="An invoice as it is now")
    async def invoice(id: str, request: Request, credentials: Credentials, wait: Wait = 0) -> Response:  # noqa: A002
        """Its state, and what was told of it. An `id` with a slash may be written as it is, or with `%2F`."""
        return await asker.ask(AskedFor.INVOICE, id, request, credentials, wait)

    app.openapi = lambda: _described(app)  # type: ignore[method-assign] # FastAPI's own way
    for kind in (NotTold, TooLarge, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(RequestWatch)
    app.add_middleware(Border, headers=HEADERS, body_bytes_max=BODY_BYTES_MAX, is_secure=False)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. FastAPI would say that problems are plain JSON."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=_ABOUT, routes=app.routes
        )
        for path in made["paths"].values():
            for status, response in path["get"]["responses"].items():
                if int(status) >= HTTPStatus.BAD_REQUEST:
                    response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
        app.openapi_schema = made
    return app.openapi_schema


class Asker:
    """Answers a request: who asks, whether they may now, and what there is to tell."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._tokens = TokenReader(door.database, door.clock)
        self._asked = Limiter(burst=ASKED_BURST, every_s=ASKED_EVERY_S, clock=door.clock)

    async def ask(
        self,
        kind: AskedFor,
        text: str,
        request: Request,
        credentials: HTTPAuthorizationCredentials | None,
        wait_s: float,
    ) -> Response:
        """The answer. Raises NotTold, and what the database raises."""
        sender = await self._sender(request, credentials)
        if again_in_s := self._asked.wait_s(sender):
            raise _too_often("You ask too often.", again_in_s)
        request.scope["sender"] = sender
        question = self._door.reader.question(kind, text, sender)
        if question is None:
            raise NotTold(HTTPStatus.NOT_FOUND, DoorCode.NO_SUCH_ID, _NO_SUCH_ID[kind])
        told = await self._door.reader.find(question)
        if wait_s and (told is None or told.under_way):
            begun = time.monotonic()
            try:
                await _unless_gone(request, self._door.room.wait(question, wait_s))
            except NoRoomError:
                raise _too_often("Too many requests wait.", 1) from None
            request.scope["waited_s"] = time.monotonic() - begun
            await self._sender(request, credentials)  # it may have been revoked meanwhile
            told = await self._door.reader.find(question)
        if told is None:
            raise _unknown()
        return _json(told)

    async def _sender(self, request: Request, credentials: HTTPAuthorizationCredentials | None) -> str:
        """Who asks. Raises NotTold for a token that does not hold; an address that sends many of them is told no more than that."""
        address = network_of_client(request)
        try:
            sender = await self._tokens.sender_of(credentials.credentials if credentials else None, address)
        except TooManyWrongError as error:
            raise _too_often("Too many wrong tokens came from this address.", error.again_in_s) from None
        if sender is not None:
            return sender
        raise NotTold(
            HTTPStatus.UNAUTHORIZED, DoorCode.TOKEN_UNKNOWN,
            "Send a token that holds: Authorization: Bearer remit_... Whoever runs Remit makes it, and it expires.",
            www_authenticate="Bearer",
        )  # fmt: skip


async def _unless_gone(request: Request, waiting: Any) -> None:
    """Wait, but not for somebody who has gone. Raises what `waiting` raises."""
    work, gone = asyncio.create_task(waiting), asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(told: DoorAnswer) -> Response:
    return Response(told.body, media_type="application/json")


def _unknown() -> NotTold:
    return NotTold(HTTPStatus.NOT_FOUND, DoorCode.UNKNOWN, _UNKNOWN)


def _too_often(detail: str, again_in_s: int) -> NotTold:
    return NotTold(HTTPStatus.TOO_MANY_REQUESTS, DoorCode.TOO_OFTEN, detail, retry_after=str(again_in_s))


# -- errors ----------------------------------------------------------------------------------------------------------------------------


async def _answer_error(_: Request, error: Exception) -> Response:
    """The answer to an error, which repeats nothing of the request: an id in it could be a card number."""
    refused = _refusal(error)
    problem = refused.problem
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        problem.number = error_number()
        log.error("request_failed", number=problem.number, error=describe_error(error), exc_info=error)
    return JSONResponse(problem.model_dump(exclude_none=True), problem.status, refused.headers, MEDIA_TYPE)


def _refusal(error: Exception) -> NotTold:
    match error:
        case NotTold():
            return error
        case TooLarge():
            return NotTold(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, DoorCode.TOO_LARGE, "A question has no body.")
        case RequestValidationError():
            detail = f"wait must be a number of seconds from 0 to {WAIT_MAX_S:g}."
            return NotTold(HTTPStatus.UNPROCESSABLE_ENTITY, DoorCode.INVALID, detail)
        case HTTPException(status_code=HTTPStatus.NOT_FOUND):
            return NotTold(
                HTTPStatus.NOT_FOUND,
                DoorCode.NO_SUCH_ADDRESS,
                "Ask at /commands/, /payments/ or /invoices/ with an id.",
            )
        case HTTPException():
            refused = NotTold(error.status_code, DoorCode.NOT_SO, "Ask with GET.")
            refused.headers = dict(error.headers or {})
            return refused
        case UnreadableRowsError():
            detail = "A newer build wrote this, and is not everywhere yet."
            return NotTold(HTTPStatus.SERVICE_UNAVAILABLE, DoorCode.AWAY, detail, retry_after=str(AWAY_FOR_S))
        case _ if trouble(error) in {Trouble.AWAY, Trouble.MISTAKE, Trouble.CONFLICT}:
            detail = "The database does not answer. Nothing can be told now."
            return NotTold(HTTPStatus.SERVICE_UNAVAILABLE, DoorCode.AWAY, detail, retry_after=str(AWAY_FOR_S))
        case _:
            return NotTold(HTTPStatus.INTERNAL_SERVER_ERROR, DoorCode.FAILED, "Something went wrong here.")


_OUTCOMES: Final = {HTTPStatus.OK: "told", HTTPStatus.NOT_FOUND: "unknown"}
_KINDS: Final = {f"{kind}s": kind.value for kind in AskedFor}


class RequestWatch:
    """Logs and counts every request, and answers an error that nobody expected. No id and no address of a page is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun, began_at = False, time.monotonic()

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                _note(scope, message["status"], time.monotonic() - began_at)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if has_begun:
                raise
            response = await _answer_error(Request(scope, receive), error)
            await response(scope, receive, send_and_note)


def _note(scope: Scope, status: int, seconds: float) -> None:
    kind = _KINDS.get(scope["path"].split("/")[1], "other") if "/" in scope["path"] else "other"
    waited_s = scope.get("waited_s", 0.0)
    failed = "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
    outcome = _OUTCOMES.get(HTTPStatus(status), failed)
    metrics.DOOR_REQUESTS.labels(kind, outcome).inc()
    metrics.DOOR_REQUEST_SECONDS.labels(kind).observe(seconds - waited_s)
    log.info(
        "asked",
        kind=kind,
        status=status,
        sender=scope.get("sender"),
        waited_s=round(waited_s, 3),
        worked_s=round(seconds - waited_s, 4),
    )
