"""What went wrong, told to people and programs: refusals, and errors with a number. For a program it is a problem of RFC 9457."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from shared.contracts.mistakes import words
from shared.web.problems import title_of


class SeeAlso(BaseModel):
    """A page that has what somebody may have looked for."""

    text: str
    address: str


class RefusedRequest(Exception):
    """Somebody asked for what cannot be done. `sentence` says what to do instead; `field` is the field of the form at fault.

    `headers` are those of the answer. `see` is a page that may help. `is_noted`: the journal tells of it already, or need not.
    """

    def __init__(
        self,
        code: str,
        sentence: str,
        status: int = HTTPStatus.CONFLICT,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        see: SeeAlso | None = None,
        *,
        is_noted: bool = False,
    ) -> None:
        super().__init__(code)
        self.code, self.sentence, self.status, self.field = code, sentence, int(status), field
        self.headers: Mapping[str, str] = headers or {}
        self.see, self.is_noted = see, is_noted


Refused = RefusedRequest
"""Its short name, for pages."""


def too_often(wait_s: int, sentence: str | None = None) -> RefusedRequest:
    """The refusal of one try too many, with the seconds after which it may be tried again (RFC 9110, 10.2.3).

    It is not journalled: nobody shall fill the journal by it.
    """
    told = sentence or f"Too many tries. Again in {wait_s} seconds."
    headers = {"retry-after": str(wait_s)}
    return RefusedRequest("too_often", told, HTTPStatus.TOO_MANY_REQUESTS, headers=headers, is_noted=True)


class Mistaken(RefusedRequest):
    """What was typed cannot be taken: a sentence for each field."""

    def __init__(self, mistakes: Mapping[str, str], code: str = "invalid") -> None:
        first = next(iter(mistakes))
        super().__init__(code, mistakes[first], HTTPStatus.UNPROCESSABLE_ENTITY, first)
        self.mistakes = dict(mistakes)


class Problem(BaseModel):
    """A problem as programs get it (`application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    sentence: str
    detail: str
    field: str | None = None
    mistakes: dict[str, str] | None = None
    number: str | None = None
    see: SeeAlso | None = None


def problem_of(refused: RefusedRequest) -> Problem:
    """A refusal as a program gets it."""
    return Problem(
        title=title_of(refused.status),
        status=refused.status,
        code=refused.code,
        sentence=refused.sentence,
        detail=refused.sentence,
        field=refused.field,
        mistakes=refused.mistakes if isinstance(refused, Mistaken) else None,
        see=refused.see,
    )


def sentence_of(error: Mapping[str, Any], label: str) -> str:
    """A mistake that pydantic found, as a sentence that begins with the label of the field."""
    context = error.get("ctx", {})
    match error["type"]:
        case "uuid_parsing" if error.get("input") in (None, ""):
            return f"{label}: fill it in."
        case "missing" | "string_too_short":
            return f"{label}: fill it in."
        case "string_too_long":
            length = len(error["input"]) if isinstance(error.get("input"), str) else 0
            return f"{label}: longer than {_grouped(context['max_length'])} characters ({_grouped(length)})."
        case "literal_error" | "enum":
            return f"{label}: choose one of these."
        case "value_error":
            return f"{label}: {words(error)}".rstrip(".") + "."
        case "int_parsing" | "int_type" | "int_from_float":
            return f"{label}: a whole number."
        case "datetime_from_date_parsing" | "date_from_datetime_parsing" | "datetime_parsing" | "date_parsing":
            return f"{label}: a day such as 2026-11-28."
        case "extra_forbidden":
            return f"{label}: there is no such field."
        case _:
            return f"{label}: {words(error)}."


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")
