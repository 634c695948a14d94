"""The staff desk as `remit` asks it: with `REMIT_DESK_URL` set, staff need a token and no password of a database.

An act carries an id that was chosen before it is sent. So it is sent again if no answer comes, and is done once.
"""

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener
from uuid import UUID

from deploy.cli.output import MISUSED, REFUSED, fail
from deploy.cli.settings import DeskAccessSettings
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.domain import DecisionRefusal
from services.staff.proposals import ProposalRefusal
from shared.ids import new_id
from shared.settings import ConfigurationError

TIMEOUT_S = 30.0
TRIES_MAX = 3
ANSWER_BYTES_MAX = 32 * 1024 * 1024
"""A page of a list is far smaller."""
UNAUTHORIZED = 401
AWAY = (URLError, TimeoutError, ConnectionError, HTTPException)


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: the token is for this address alone."""


class DeskProblem(Exception):
    """The desk refused. `code` is for programs, `sentence` for people."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code)
        self.code, self.sentence = code, sentence


class DeskClient:
    """The desk's API, with the token of who acts."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._opener = build_opener(_NoRedirect)

    def get(self, path: str, **query: str) -> Any:
        """What the page at this address shows. Raises CliError if there is none."""
        try:
            return self._asked("GET", f"{path}?{urlencode(query)}" if query else path, None)
        except DeskProblem as problem:
            fail(problem.sentence, REFUSED)

    def act(self, subject: UUID, path: str, **fields: object) -> ActionResult:
        """Do what the form at this address does. A refusal of the act is its result. Raises CliError for any other."""
        body = {name: value for name, value in fields.items() if value is not None}
        try:
            done = self._asked("POST", path, {"once": str(new_id()), **body})
        except DeskProblem as problem:
            refusal = _refusal(problem.code)
            if refusal is None:
                fail(problem.sentence, REFUSED)
            return ActionResult(subject, problem.sentence, refusal)
        return ActionResult(subject, done["text"], entry=UUID(done["entry"]) if done.get("entry") else None)

    def _asked(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        for tries in range(1, TRIES_MAX + 1):
            try:
                return self._once(method, path, body)
            except AWAY as error:
                if tries == TRIES_MAX:
                    fail(
                        f"The desk at REMIT_DESK_URL does not answer ({type(error).__name__}). What was begun is done completely or not "
                        "at all.",
                        MISUSED,
                    )
        raise AssertionError("the last try returns or fails")

    def _once(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        headers = {"authorization": f"Bearer {self._token}", "accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["content-type"] = "application/json"
        request = Request(f"{self._url}/api/v1{path}", data, headers, method=method)  # noqa: S310 - checked in the settings
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read(ANSWER_BYTES_MAX))
        except HTTPError as error:
            raise _problem(error) from None
        except ValueError:
            fail("What answers at REMIT_DESK_URL is no staff desk of Remit.", MISUSED)


def _problem(error: HTTPError) -> DeskProblem:
    """What the desk said of itself; of what is no desk, that."""
    with error:
        try:
            told = json.loads(error.read(ANSWER_BYTES_MAX))
            code, sentence = str(told["code"]), str(told["sentence"])
        except (ValueError, LookupError, TypeError):
            fail(f"What answers at REMIT_DESK_URL is no staff desk of Remit: it says {error.code}.", MISUSED)
    if error.code == UNAUTHORIZED:
        fail(f"REMIT_DESK_TOKEN: {sentence}", MISUSED)
    return DeskProblem(code, sentence)


def _refusal(code: str) -> ActionRefusal | DecisionRefusal | ProposalRefusal | None:
    for kind in (ActionRefusal, DecisionRefusal, ProposalRefusal):
        if code in set(kind):
            return kind(code)
    return None


def desk_of_environment() -> DeskClient | None:
    """The desk that `REMIT_DESK_URL` names; None if it names none. Raises ConfigurationError."""
    settings = DeskAccessSettings.read()
    if not settings.url:
        return None
    if not settings.token:
        raise ConfigurationError(
            "REMIT_DESK_TOKEN is not set: the desk that REMIT_DESK_URL names has to know who acts."
        )
    return DeskClient(settings.url, settings.token)
