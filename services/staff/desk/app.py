"""The application: the rooms of `pages`, the way in, what every answer has, and what becomes of an error."""

import pkgutil
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib import import_module
from mimetypes import guess_type
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.staff.desk import contract, pages
from services.staff.desk.contacts import Contact, read_contacts
from services.staff.desk.desk import Desk
from services.staff.desk.frame import STATIC, STATIC_VERSION, MenuCounts, render
from services.staff.desk.guesses import Guesses
from services.staff.desk.live import Live
from services.staff.desk.once import AtWork
from services.staff.desk.problems import Problem, Refused, problem_of, sentence_of
from services.staff.desk.routing import ACTS_BURST, ACTS_EVERY_S, API, Room, desk_of, routes_of
from services.staff.desk.security import BODY_BYTES_MAX, HEADERS
from services.staff.desk.sessions import Visitor, cookie_of, set_cookie, visitor_of
from services.staff.desk.sign_in import VISIT, SignIn
from shared.observability import metrics
from shared.observability.logs import describe_error
from shared.persistence.database import Trouble, trouble
from shared.web.border import Border, TooLarge
from shared.web.limiter import Limiter
from shared.web.problems import MEDIA_TYPE, error_number, title_of
from shared.web.strangers import Strangers

log = structlog.get_logger(__name__)

FOR_EVER = "public, max-age=31536000, immutable"
CAUGHT = (TooLarge, HTTPException, Refused, RequestValidationError)


def rooms_of_pages() -> list[Room]:
    """The room of every module of `pages`, in the order of their names."""
    names = sorted(found.name for found in pkgutil.iter_modules(pages.__path__))
    return [import_module(f"{pages.__name__}.{name}").room for name in names]


def make_app(desk: Desk, rooms: Sequence[Room] | None = None) -> FastAPI:
    """The application of this desk, with all its rooms or those that a test names."""
    rooms = rooms_of_pages() if rooms is None else rooms
    # An address with a slash too many is not redirected: that would lead to whatever host the request names, and away from TLS.
    app = FastAPI(
        title="The staff desk of Remit", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.desk = desk
    app.state.at_work = AtWork()
    app.state.acts_limiter = Limiter(burst=ACTS_BURST, every_s=ACTS_EVERY_S, clock=desk.clock)
    app.state.menu_counts = MenuCounts(
        {key: source for room in rooms for key, source in room.counts.items()}, desk.clock
    )
    app.state.guesses = Guesses(desk.clock)
    app.state.strangers = Strangers(desk.clock)
    sign_in = SignIn(desk, app.state.guesses)
    app.state.sign_in_view = sign_in.view
    app.state.live = Live(desk, [region for room in rooms for region in room.regions], app.state.menu_counts)
    live = Route("/live", app.state.live.answer, methods=["GET"])
    app.router.routes.extend(
        [
            *static_routes(),
            *contract.routes(),
            *sign_in.routes(),
            *_single_sign_on_routes(desk, sign_in),
            live,
            Route(f"{API}/live", live.endpoint),
            Route(f"{API}/openapi.json", _description, methods=["GET"]),
        ]
    )
    for room in rooms:
        # Not included: FastAPI would build each of them anew, for each application.
        app.router.routes.extend(routes_of(room).routes)
    for kind in CAUGHT:
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(_Errors, desk=desk)
    app.add_middleware(_Visits, desk=desk)
    app.add_middleware(Border, headers=HEADERS, body_bytes_max=BODY_BYTES_MAX, is_secure=desk.settings.is_secure)
    return app


def _single_sign_on_routes(desk: Desk, sign_in: SignIn) -> list[Route]:
    if not desk.settings.provider:
        return []
    from services.staff.desk.single_sign_on import SingleSignOn  # noqa: PLC0415 - its libraries take a tenth of a second

    return SingleSignOn(desk, sign_in).routes()


async def _description(request: Request) -> Response:
    """The description of the API, for whoever is signed in or has a token: it names all that the desk can do."""
    await visitor_of(desk_of(request), request)
    app: FastAPI = request.app
    described = app.openapi()
    return JSONResponse({**described, "paths": {**described["paths"], f"{API}/live": _LIVE}})


_LIVE: Final[Mapping[str, Any]] = {
    "get": {
        "tags": ["live"],
        "summary": "Live parts of pages",
        "description": "Parts of pages, sent anew when they change, with their moment (server-sent events). The stream has no end.",
        "parameters": [
            {
                "name": "on",
                "in": "query",
                "schema": {"type": "string"},
                "description": "The names of parts, separated by commas, as pages have them: overview:now, stuck:now, run:1.",
            }
        ],
        "responses": {"200": {"description": "The stream.", "content": {"text/event-stream": {}}}},
    }
}
"""Not a route of FastAPI: what it streams has no model."""


def static_routes() -> list[Route]:
    """The stylesheet and the script, under an address that changes with them."""
    return [_static_route(path.name, path.read_bytes()) for path in sorted(STATIC.iterdir())]


def _static_route(name: str, content: bytes) -> Route:
    async def answer(_: Request) -> Response:
        kind = guess_type(name)[0] or "application/octet-stream"
        return Response(content, media_type=kind, headers={"cache-control": FOR_EVER})

    return Route(f"/static/{STATIC_VERSION}/{name}", answer, methods=["GET"])


class _Visits:
    """Gives the cookie of a visit to whoever got the form by which one signs in."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and (visit := scope.pop("new_visit", None)) is not None:
                response = Response()
                set_cookie(response, self._desk.settings, visit, VISIT)
                message = {**message, "headers": [*message["headers"], *_cookies(response)]}
            await send(message)

        await self._app(scope, receive, send_with_cookie)


def _cookies(response: Response) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in response.raw_headers if name == b"set-cookie"]


# -- errors ----------------------------------------------------------------------------------------------------------------------------


class _Errors:
    """Answers an error that nobody expected, logs it under the number that the answer names, and counts what became of requests."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun, began_at, kind = False, time.monotonic(), _type_of(scope)

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                metrics.DESK_REQUESTS.labels(kind, _outcome_of(message["status"])).inc()
                metrics.DESK_REQUEST_SECONDS.labels(kind).observe(time.monotonic() - began_at)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if has_begun:
                raise
            response = await _answer_error(Request(scope, receive), error)
            await response(scope, receive, send_and_note)


def _type_of(scope: Scope) -> str:
    path = scope["path"]
    if path.startswith(f"{API}/"):
        return "api"
    if path == "/live" or path.startswith("/static/"):
        return str(path.split("/")[1])
    return "page" if scope["method"] in ("GET", "HEAD") else "act"


def _outcome_of(status: int) -> str:
    if status < HTTPStatus.BAD_REQUEST:
        return "done"
    return "refused" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "failed"


async def _answer_error(request: Request, error: Exception) -> Response:
    """The answer to an error: a problem for a program, a page in the frame for a person."""
    problem = _problem(error)
    if problem.number is not None:
        log.error("request_failed", number=problem.number, error=describe_error(error), exc_info=error)
    headers = (error.headers if isinstance(error, HTTPException | Refused) else None) or {}
    if request.url.path.startswith(f"{API}/"):
        return JSONResponse(problem.model_dump(exclude_none=True), problem.status, headers, MEDIA_TYPE)
    response = await _error_page(request, problem)
    response.headers.update(headers)
    return response


async def _error_page(request: Request, problem: Problem) -> Response:
    desk = desk_of(request)
    is_away = problem.code == "away"
    visitor = None if is_away else await _visitor(desk, request)
    view: dict[str, Any] = {
        "problem": problem,
        "page": _page(request),
        "is_away": is_away,
        "whom": _whom_to_call(request, desk) if problem.number is not None else None,
    }
    return await render(desk, request, "error.html", view, visitor=visitor, status=problem.status)


def _whom_to_call(request: Request, desk: Desk) -> Contact | None:
    """The first of those whom one may call, for whoever has been signed in: without the database nobody can say who that is."""
    if cookie_of(request, desk.settings) is None:
        return None
    return next(iter(read_contacts(desk.settings.contacts_file).people), None)


async def _visitor(desk: Desk, request: Request) -> Visitor | None:
    try:
        return await visitor_of(desk, request)
    except Exception:  # noqa: BLE001 - the page about an error shows without an account, too
        return None


def _page(request: Request) -> str:
    return request.url.path if request.method in ("GET", "HEAD") else "/"


def _problem(error: Exception) -> Problem:
    match error:
        case Refused():
            return problem_of(error)
        case TooLarge():
            sentence = "What was sent is larger than anything this page asks for: at most 1 MiB."
            return _simple(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", sentence)
        case HTTPException(status_code=HTTPStatus.NOT_FOUND):
            return _simple(HTTPStatus.NOT_FOUND, "unknown", "There is no such page.")
        case HTTPException(status_code=HTTPStatus.METHOD_NOT_ALLOWED):
            sentence = "This address is no page: it is what a form sends to. Open the page and use its form."
            return _simple(HTTPStatus.METHOD_NOT_ALLOWED, "no_such_method", sentence)
        case HTTPException():
            return _simple(error.status_code, "invalid", f"{str(error.detail)[:200]}.")
        case RequestValidationError():
            return _unreadable(error)
        case _ if trouble(error) is Trouble.AWAY:
            sentence = "The staff database does not answer"
            return _simple(HTTPStatus.SERVICE_UNAVAILABLE, "away", sentence, error_number())
        case _:
            sentence = "Something went wrong here"
            return _simple(HTTPStatus.INTERNAL_SERVER_ERROR, "failed", sentence, error_number())


def _unreadable(error: RequestValidationError) -> Problem:
    """What a program sent and is not as the API has it. An address that cannot be read is one that there is not."""
    errors = error.errors()
    if any(one["loc"][:1] == ("path",) for one in errors):
        return _simple(HTTPStatus.NOT_FOUND, "unknown", "There is no such page.")
    mistakes = {".".join(map(str, one["loc"][1:])) or "body": one for one in errors}
    sentences = {name: sentence_of(one, name.replace("_", " ").capitalize()) for name, one in mistakes.items()}
    first = next(iter(sentences))
    problem = _simple(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", sentences[first])
    return problem.model_copy(update={"field": first, "mistakes": sentences})


def _simple(status: int, code: str, sentence: str, number: str | None = None) -> Problem:
    return Problem(
        title=title_of(status), status=int(status), code=code, sentence=sentence, detail=sentence, number=number
    )
