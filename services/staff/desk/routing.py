"""Pages and acts: one handler each, for browsers and for programs.

A `Room` has the handlers of one subject. `page` makes of a handler the page at an address, and the same as JSON under `/api/v1`.
`act` makes of a handler what a form and a program send. Handlers get their parameters from the address, the query and the form, by the
names and types in their signature. Some names are given by the desk: `desk`, `viewer` and `actor` (who is there), `visitor` (the same with
session and preferences), and `request`.
"""

import inspect
import re
import types
import typing
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import cache, cached_property
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode
from uuid import UUID

import structlog
from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo
from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from services.staff import people_store
from services.staff.actions.accounts import note_refused_request
from services.staff.desk import security, sessions
from services.staff.desk.desk import Desk
from services.staff.desk.frame import CountOf, TypedForm, render
from services.staff.desk.once import NUL, Act, AtWork, Done, perform
from services.staff.desk.problems import Mistaken, Problem, Refused, sentence_of, too_often
from services.staff.desk.sessions import Visitor, visitor_of, why_not
from services.staff.people import Actor, Role
from services.staff.people_store import KeptForm
from shared.ids import read_uuid
from shared.records import dataclass, field
from shared.web.limiter import Limiter

__all__ = ["Act", "Desk", "Done", "Mistaken", "Refused", "Room", "Visitor"]

log = structlog.get_logger(__name__)

API = "/api/v1"
FIELDS_MAX = 20_000
"""Fields of a form: more than the messages that one page selects."""
ACTS_BURST, ACTS_EVERY_S = 60, 1.0
KEPT_CHARACTERS_MAX = 64 * 1024
GIVEN = frozenset({"desk", "viewer", "actor", "visitor", "request"})
FORM_KEY = "form_key"
PASSWORD = "password"  # noqa: S105 - the beginning of the names of fields that are never kept and never shown again
_NAMES_IN = re.compile(r"\{(\w+)(?::path)?\}")
"""The names in an address. `{name:path}` takes what has slashes, too."""
Handler = Callable[..., Awaitable[Any]]
_TOLD: Final = "A sentence says what to do."
_PROBLEM: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    **{status: {"content": _PROBLEM, "description": _TOLD} for status in (400, 403, 404, 409, 413, 422, 429, 503)},
    401: {"model": Problem, "description": _TOLD},
}
"""One of them names the model, the others what FastAPI makes of it: it would make it anew for each status of each route."""


@dataclass(frozen=True, slots=True)
class SeenBy:
    """How viewers see different views of what was read once for all. Those for whom `alike` is the same see the same `view`."""

    alike: Callable[[Any, Actor], Hashable]
    view: Callable[[Any, Actor], Any]


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a page that is shown anew when it changes: `load` finds its view for a key; None if there is no such thing.

    `seen`: what was loaded is not yet the view, since viewers see different ones. `has_forms`: it is drawn for each session alone; any
    other region is drawn once for all, with `PageFrame.for_all`.
    """

    name: str
    template: str
    load: Handler
    seen: SeenBy | None = None
    has_forms: bool = False


class Room:
    """The pages and acts of one subject. `app` collects the variable `room` of every module of `pages`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pages: list[DeskPage] = []
        self.answers: list[DeskPage] = []
        self.acts: list[FormAct] = []
        self.regions: list[Region] = []
        self.counts: dict[str, CountOf] = {}

    def page(
        self, address: str, template: str, *, needs: Role = Role.VIEWER, api: bool = True
    ) -> Callable[[Handler], Handler]:
        """Make a handler the page at `address`, drawn by `template`, and the same as JSON unless `api` is False.

        It returns the view of the page, a pydantic model, or a response of its own, such as a redirection. It raises `Refused`.
        """

        def add(handler: Handler) -> Handler:
            self.pages.append(DeskPage(address, template, handler, needs, api))
            return handler

        return add

    def answer(self, address: str) -> Callable[[Handler], Handler]:
        """Make a handler what programs alone ask for at `address`: on the pages it is a part of another one."""

        def add(handler: Handler) -> Handler:
            self.answers.append(DeskPage(address, "", handler, Role.VIEWER, True))  # noqa: FBT003
            return handler

        return add

    def act(
        self, address: str, *, needs: Role | None, page: str | None = None, api: bool = True
    ) -> Callable[[Handler], Handler]:
        """Make a handler what is done by a POST to `address`. Its parameter `form` is a model that inherits `Act`.

        `page` is the address of the page where its form stands, and is shown again if the form cannot be taken; without it, it is the
        longest page of this room that `address` begins with.
        """

        def add(handler: Handler) -> Handler:
            self.acts.append(FormAct(address, handler, needs, page, api))
            return handler

        return add

    def region(
        self, name: str, template: str, *, seen: SeenBy | None = None, has_forms: bool = False
    ) -> Callable[[Handler], Handler]:
        """Make a handler with the parameter `key` the source of the live regions `name:KEY`. It is called once for all who look."""

        def add(handler: Handler) -> Handler:
            self.regions.append(Region(name, template, handler, seen, has_forms))
            return handler

        return add

    def count(self, key: str) -> Callable[[CountOf], CountOf]:
        """Make a function the source of the count beside the line `key` of the menu."""

        def add(source: CountOf) -> CountOf:
            self.counts[key] = source
            return source

        return add

    def page_of(self, act: "FormAct") -> "DeskPage | None":
        """The page on which the form of an act stands."""
        if act.page is not None:
            return next((page for page in self.pages if page.address == act.page), None)
        above = [page for page in self.pages if f"{act.address}/".startswith(f"{page.address.rstrip('/')}/")]
        return max(above, key=lambda page: len(page.address), default=None)


# -- parameters of handlers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """The parameters of a handler that come from the address and the query."""

    of_address: Mapping[str, inspect.Parameter]
    of_query: Mapping[str, inspect.Parameter]
    returns: Any
    given: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, handler: Handler, address: str) -> "Parameters":
        """Read them from the signature, with the types that its annotations name."""
        hints = typing.get_type_hints(handler, include_extras=True)
        signature = inspect.signature(handler)
        typed = {name: one.replace(annotation=hints[name]) for name, one in signature.parameters.items()}
        in_address = set(_NAMES_IN.findall(address))
        ours = {name: one for name, one in typed.items() if name not in GIVEN and name != "form"}
        return cls(
            {name: one for name, one in ours.items() if name in in_address},
            {name: one for name, one in ours.items() if name not in in_address},
            hints.get("return"),
            frozenset(typed) & GIVEN,
        )

    def bind(self, path: Mapping[str, Any], query: QueryParams) -> dict[str, Any]:
        """The arguments of a request. Raises `Refused` if the address or its query is not as it has to be."""
        if any(NUL in str(value) for value in path.values()) or any(NUL in text for _, text in query.multi_items()):
            raise Refused("unknown", "There is no such page.", HTTPStatus.NOT_FOUND)
        try:
            address = {name: getattr(self._address_model(**path), name) for name in self.of_address}
        except ValidationError:
            raise Refused("unknown", "There is no such page.", HTTPStatus.NOT_FOUND) from None
        sent = {
            name: query.getlist(name) if _is_list(one.annotation) else query[name]
            for name, one in self.of_query.items()
            if name in query and (query[name] != "" or one.default is inspect.Parameter.empty)
        }
        try:
            found = self._query_model(**sent)
        except ValidationError as error:
            raise Mistaken(_mistakes(error, self._query_model.model_fields)) from None
        return address | {name: getattr(found, name) for name in self.of_query}

    @cached_property
    def _address_model(self) -> type[BaseModel]:
        return self._model(self.of_address)

    @cached_property
    def _query_model(self) -> type[BaseModel]:
        return self._model(self.of_query)

    @staticmethod
    def _model(parameters: Mapping[str, inspect.Parameter]) -> type[BaseModel]:
        fields: dict[str, Any] = {
            name: (one.annotation, ... if one.default is inspect.Parameter.empty else one.default)
            for name, one in parameters.items()
        }
        return create_model("Arguments", __config__=ConfigDict(extra="ignore", arbitrary_types_allowed=True), **fields)


def _given(names: frozenset[str], desk: Desk, request: Request, visitor: Visitor) -> dict[str, Any]:
    all_ = {"desk": desk, "viewer": visitor.actor, "actor": visitor.actor, "visitor": visitor, "request": request}
    return {name: all_[name] for name in names}


def _is_list(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated:
        return _is_list(typing.get_args(annotation)[0])
    return typing.get_origin(annotation) in (list, tuple, set, frozenset, Sequence) or any(
        _is_list(one) for one in typing.get_args(annotation) if isinstance(annotation, types.UnionType)
    )


def _mistakes(error: ValidationError, fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """A sentence for each field that is wrong. A field may say in `json_schema_extra` what to say if it is not there (`missing`)."""
    sentences: dict[str, str] = {}
    for one in error.errors(include_url=False):
        name = str(one["loc"][0]) if one["loc"] else ""
        sentences.setdefault(name, _sentence(dict(one), name, fields.get(name)))
    return sentences


def _sentence(error: Mapping[str, Any], name: str, of: FieldInfo | None) -> str:
    extra = of.json_schema_extra if of is not None and isinstance(of.json_schema_extra, dict) else {}
    if error["type"] in ("missing", "string_too_short") and "missing" in extra:
        return str(extra["missing"])
    label = (of.title if of is not None else None) or name.replace("_", " ").capitalize()
    return sentence_of(error, label)


# -- pages -----------------------------------------------------------------------------------------------------------------------------


class DeskPage:
    """A page, and the same as JSON."""

    def __init__(self, address: str, template: str, handler: Handler, needs: Role, api: bool) -> None:  # noqa: FBT001
        self.address, self.template, self.needs, self.in_api = address, template, needs, api
        self._handler = handler

    @cached_property
    def parameters(self) -> Parameters:
        return Parameters.of(self._handler, self.address)

    async def view(self, request: Request, desk: Desk, visitor: Visitor, path: Mapping[str, Any]) -> Any:
        """What the page shows. Raises `Refused`."""
        if (why := await _why_not(desk, visitor, self.needs)) is not None:
            raise Refused("not_allowed", why, HTTPStatus.FORBIDDEN)
        arguments = self.parameters.bind(path, request.query_params)
        return await self._handler(**arguments, **_given(self.parameters.given, desk, request, visitor))

    async def html(self, request: Request) -> Response:
        """The page for a browser. Whoever is not signed in is sent to do that first."""
        desk = desk_of(request)
        try:
            visitor = await visitor_of(desk, request)
        except Refused as refused:
            if refused.code != "signed_out":
                raise
            return RedirectResponse(f"/sign-in?{urlencode({'page': _address(request)})}", HTTPStatus.SEE_OTHER)
        view = await self.view(request, desk, visitor, request.path_params)
        if isinstance(view, Response):
            return view
        return await render(
            desk, request, self.template, view, visitor=visitor, typed=await _kept(desk, request, visitor)
        )

    def api(self) -> Handler:
        """The handler of the same as JSON, with the signature that FastAPI documents."""

        async def endpoint(request: Request, **_: Any) -> Any:
            desk = desk_of(request)
            visitor = await visitor_of(desk, request)
            return await self.view(request, desk, visitor, request.path_params)

        parameters = [*self.parameters.of_address.values(), *self.parameters.of_query.values()]
        return _with_signature(endpoint, parameters, f"get{self.address}")

    @property
    def model(self) -> Any:
        """What the API answers with: the view, without the responses that a page may give in its place."""
        kinds = typing.get_args(self.parameters.returns) or (self.parameters.returns,)
        if all(isinstance(kind, type) and issubclass(kind, Response) for kind in kinds):
            return None  # a file
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        return models[0] if len(models) == 1 else self.parameters.returns


async def _kept(desk: Desk, request: Request, visitor: Visitor) -> TypedForm | None:
    """What was typed into a form of this page before its session had ended. It is shown once."""
    kept = visitor.kept
    if kept is None or visitor.session is None or kept.page != request.url.path:
        return None
    async with desk.database.connection() as connection:
        await people_store.keep_form(connection, visitor.session.hash, None)
    return TypedForm(kept.act, kept.typed)


# -- acts ------------------------------------------------------------------------------------------------------------------------------


class FormAct:
    """What a form does, and the same for programs."""

    def __init__(self, address: str, handler: Handler, needs: Role | None, page: str | None, api: bool) -> None:  # noqa: FBT001
        self.address, self.needs, self.page, self.in_api = address, needs, page, api
        self._handler = handler

    @cached_property
    def parameters(self) -> Parameters:
        return Parameters.of(self._handler, self.address)

    @cached_property
    def model(self) -> type[Act]:
        """The model of the form."""
        model = typing.get_type_hints(self._handler, include_extras=True).get("form", Act)
        return typing.cast("type[Act]", model)

    async def done(self, request: Request, desk: Desk, visitor: Visitor, read: Callable[[], Act]) -> Done:
        """Do what the form says that `read` returns, once. Raises `Refused`. Whoever is here is known, and so the journal tells of it."""
        limiter: Limiter = request.app.state.acts_limiter
        if (wait_s := limiter.wait_s(str(visitor.id))) > 0:
            raise too_often(wait_s)
        try:
            return await self._done(request, desk, visitor, read)
        except Refused as refused:
            if not refused.is_noted:
                about = next(filter(None, map(read_uuid, request.path_params.values())), visitor.id)
                actor, now = visitor.actor, desk.clock()
                await note_refused_request(desk.database, about, self.address, refused.code, who=actor, now=now)
            raise

    async def _done(self, request: Request, desk: Desk, visitor: Visitor, read: Callable[[], Act]) -> Done:
        if (why := await _why_not(desk, visitor, self.needs)) is not None:
            raise Refused("not_allowed", why, HTTPStatus.FORBIDDEN)
        form = read()
        arguments = self.parameters.bind(request.path_params, request.query_params)
        given = _given(self.parameters.given, desk, request, with_request(visitor, form.once))
        if "form" in inspect.signature(self._handler).parameters:
            given["form"] = form
        at_work: AtWork = request.app.state.at_work
        return await perform(
            desk,
            at_work,
            form,
            who=visitor.actor.name,
            act=request.url.path.removeprefix(API),
            do=lambda: self._handler(**arguments, **given),
        )

    async def html(self, request: Request, room: Room) -> Response:
        """What a form of a browser asks for: 303 to a page that tells what was done, or the form again with its mistakes."""
        desk = desk_of(request)
        security.check_origin(request, desk.settings.url)
        sent = await request.form(max_files=0, max_fields=FIELDS_MAX)
        page = room.page_of(self)
        try:
            visitor = await visitor_of(desk, request)
        except Refused as refused:
            if refused.code == "signed_out":
                return await _sign_in_first(request, desk, sent, page, refused)
            raise
        security.check_form_key(sent.get(FORM_KEY), visitor.cookie or "")
        try:
            done = await self.done(request, desk, visitor, lambda: self._form(sent))
        except Refused as refused:
            return await self._again(request, desk, visitor, sent, page, refused)
        if done.secret is not None and page is not None:
            view = await page.view(request, desk, visitor, request.path_params)
            return await render(desk, request, page.template, view, visitor=visitor, done=done)
        return RedirectResponse(_with_done(done, sent), HTTPStatus.SEE_OTHER)

    def _form(self, sent: FormData) -> Act:
        """The form as its model. A field that was left empty counts as one that was not sent."""
        takes_all = self.model.model_config.get("extra") == "allow"
        fields = self.model.model_fields
        values: dict[str, Any] = {}
        for name, written in texts_of(sent).items():
            if name == FORM_KEY or not (takes_all or name in fields):
                continue
            texts = [_with_line_feeds(text) for text in written]
            is_list = name in fields and _is_list(fields[name].annotation)
            if is_list or (texts and texts[-1].strip()):
                values[name] = texts if is_list else texts[-1]
        try:
            return self.model.model_validate(values)
        except ValidationError as error:
            mistakes = _mistakes(error, fields)
            if "once" in mistakes:
                raise security.OTHER_SITE from None
            raise Mistaken(mistakes) from None

    async def _again(
        self, request: Request, desk: Desk, visitor: Visitor, sent: FormData, page: DeskPage | None, refused: Refused
    ) -> Response:
        """The page of the form again, with what was typed and why it was not taken."""
        if page is None:
            raise refused
        mistakes = refused.mistakes if isinstance(refused, Mistaken) else {}
        if refused.field is not None:
            mistakes = mistakes or {refused.field: refused.sentence}
        typed = TypedForm(request.url.path, texts_of(sent), mistakes, None if mistakes else refused.sentence)
        try:
            view = await page.view(request, desk, visitor, request.path_params)
        except Refused:
            raise refused from None  # what the form is about is gone, or is not for this person
        if isinstance(view, Response):
            raise refused
        answer = await render(desk, request, page.template, view, visitor=visitor, typed=typed, status=refused.status)
        answer.headers.update(refused.headers)
        return answer

    def api(self) -> Handler:
        """The handler for programs, with the signature that FastAPI documents."""

        async def endpoint(request: Request, form: Act, **_: Any) -> Done:
            desk = desk_of(request)
            visitor = await visitor_of(desk, request)
            if visitor.cookie is not None:
                security.check_origin(request, desk.settings.url)
                security.check_form_key(request.headers.get("x-remit-form-key"), visitor.cookie)
            return await self.done(request, desk, visitor, lambda: form)

        form = inspect.Parameter(
            "form", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[self.model, Body()]
        )
        parameters = [*self.parameters.of_address.values(), form, *self.parameters.of_query.values()]
        return _with_signature(endpoint, parameters, f"post{self.address}")


def with_request(visitor: Visitor, once: UUID) -> Visitor:
    """The visitor, whose act is this one: the ids of its entries in the journal follow from it."""
    actor = visitor.actor
    named = type(actor)(actor.name, actor.via, actor.roles, actor.is_program, once)
    return Visitor(named, visitor.id, visitor.cookie, visitor.session, visitor.preferences)


def texts_of(sent: FormData) -> dict[str, list[str]]:
    """The texts of each field. Each is looked at once: to ask the form for one name after the other takes seconds for 20 000 of them."""
    texts: dict[str, list[str]] = {}
    for name, value in sent.multi_items():
        of_name = texts.setdefault(name, [])
        if isinstance(value, str):
            of_name.append(value)
    return texts


async def _sign_in_first(
    request: Request, desk: Desk, sent: FormData, page: DeskPage | None, refused: Refused
) -> Response:
    """Send somebody to sign in, and keep what was typed, with the session that has ended: only its own person gets it back."""
    session = await sessions.session_of(desk, request)
    address = "/" if page is None else _filled(page.address, request.path_params)
    if session is not None:
        typed = {
            _with_line_feeds(name): [_with_line_feeds(text) for text in texts]
            for name, texts in texts_of(sent).items()
            if name not in ("once", FORM_KEY) and not name.startswith(PASSWORD)
        }
        if sum(len(text) for name, texts in typed.items() for text in (name, *texts)) <= KEPT_CHARACTERS_MAX:
            async with desk.database.connection() as connection:
                await people_store.keep_form(connection, session.hash, KeptForm(address, request.url.path, typed))
    view: Mapping[str, Any] = request.app.state.sign_in_view(request, address, refused.sentence)
    return await render(desk, request, "sign-in.html", view, visitor=None, status=refused.status)


def _filled(address: str, path: Mapping[str, Any]) -> str:
    return _NAMES_IN.sub(lambda name: quote(str(path[name[1]]), safe=""), address)


def _with_done(done: Done, sent: FormData) -> str:
    """Where to go after an act. The page there shows what was done, which it finds by the id of the form."""
    place, mark, fragment = done.location.partition("#")
    joined = f"{place}{'&' if '?' in place else '?'}{urlencode({'done': str(sent['once'])})}"
    return f"{joined}{mark}{fragment}"


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace(NUL, "\ufffd")


async def _why_not(desk: Desk, visitor: Visitor, needs: Role | None) -> str | None:
    if why_not(visitor.actor, needs, []) is None:
        return None
    async with desk.read() as connection:
        return why_not(visitor.actor, needs, await people_store.active_names(connection, Role.ADMIN))


def desk_of(request: Request) -> Desk:
    """The desk of the app that handles this request."""
    desk: Desk = request.app.state.desk
    return desk


def _address(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _with_signature(endpoint: Handler, parameters: Sequence[inspect.Parameter], name: str) -> Handler:
    """The endpoint with the parameters that FastAPI reads and documents."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    request = inspect.Parameter("request", kind, annotation=Request)
    ordered = sorted(parameters, key=lambda one: one.default is not inspect.Parameter.empty)
    signature = inspect.Signature([request, *(one.replace(kind=kind) for one in ordered)])
    endpoint.__signature__ = signature  # type: ignore[attr-defined]
    plain = _NAMES_IN.sub(r"\1", name)
    endpoint.__name__ = plain.replace("/", "_").replace("-", "_").rstrip("_")
    return endpoint


# -- routes ----------------------------------------------------------------------------------------------------------------------------


@cache
def routes_of(room: Room) -> APIRouter:
    """All routes of a room. They find their desk by the request, so they are the same for every desk in this process."""
    router = APIRouter()
    for page in room.pages:
        router.add_route(page.address, page.html, methods=["GET", "HEAD"], include_in_schema=False)
    for page in (*room.answers, *room.pages):
        if page.in_api:
            router.add_api_route(
                f"{API}{page.address}".rstrip("/"),
                page.api(),
                methods=["GET"],
                response_model=page.model,
                responses=PROBLEMS,
                tags=[room.name.rpartition(".")[2]],
            )
    for act in room.acts:
        router.add_route(act.address, _bound(act, room), methods=["POST"], include_in_schema=False)
        if act.in_api:
            router.add_api_route(
                f"{API}{act.address}",
                act.api(),
                methods=["POST"],
                response_model=Done,
                responses=PROBLEMS,
                tags=[room.name.rpartition(".")[2]],
            )
    return router


def _bound(act: FormAct, room: Room) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await act.html(request, room)

    return endpoint
