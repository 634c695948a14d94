"""Redaction: makes a text safe to keep or show, for instance in a log line, a dead letter, or the evidence of a payment.

Card numbers, security codes and keys are removed wherever they are. PostgreSQL and its drivers quote rows in their errors. Such quotes are
removed whole, because any column could hold a secret. Nothing here raises. A text that cannot be made safe is replaced by a remark that
says so.
"""

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Final

from shared.card_data.fingerprint import fingerprint
from shared.card_data.scan import CARD_DATA_ENCODED, CARD_PLACEHOLDER, beginning, has_card_data, mask_card_data
from shared.card_data.values import scalar_text
from shared.card_data.verification_values import is_cvv_name
from shared.observability.visible import visible

TEXT_MAX = 4_096  # characters of one value: a page of text says what happened
TRACEBACK_MAX = 16_384  # characters: 8 exceptions of 20 frames fit
_READ_MAX = 65_536  # characters looked at before the cut: as long as the longest body we take
_DEPTH_MAX = 6  # of a logged structure
_ITEMS_MAX = 100  # of a logged list or mapping
_CHAIN_MAX = 8  # exceptions in a chain of causes, and members of a group
_FRAMES_MAX = 20  # the innermost frames of one traceback

_HIDDEN: Final = "***"
_UNFIT: Final = "[text removed: it could not be redacted]"
_JWE_PARTS = 5  # RFC 7516, 7.1
_JSON_INTEGER_MAX = 2**53  # beyond, readers of JSON lose digits (RFC 8259, 6)

_SENSITIVE = (
    "password",
    "passwd",
    "secret",
    "api_key",
    "api-key",
    "apikey",
    "authorization",
    "private_key",
    "access_token",
)
_IS_SENSITIVE = re.compile("|".join(_SENSITIVE), re.IGNORECASE)


# -- text --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """What to replace in a text. `pattern` is only tried if the lower-case text contains `hint`.

    Most texts contain no hint, and that test costs little.
    """

    hint: str
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]


def _name_token(found: re.Match[str]) -> str:
    """The text that replaces a token. A JWE is replaced by the beginning of its `fingerprint`, which also stands in stored events."""
    before, token = found.groups()
    is_jwe = token.count(".") == _JWE_PARTS - 1
    return before + (f"[jwe {fingerprint(token)[:12]}]" if is_jwe else "[jwt]")


# The pattern starts at the first `eyJ` of a word only. If no full stop follows the word, later ones cannot match either, and trying 22 000
# of them took seconds.
_TOKEN = re.compile(r"(?<![\w-])((?>[\w-]*?(?=eyJ)))(eyJ[\w-]{8,}+(?:\.[\w-]*){2,4})")
# PostgreSQL and asyncpg put the name of a type before the colon, which has 63 bytes at most. Without a limit, the time would grow with the
# square of the number of such messages in one line.
_UP_TO_COLON = r"[^:\n]{0,200}:"


_RULES = (
    _Rule("://", re.compile(r"(://[^\s/?#:@\"']*):[^\s/?#\"']*@"), rf"\1:{_HIDDEN}@"),
    _Rule("k_", re.compile(r"([spr]k_(?:live|test)_)\w+"), rf"\1{_HIDDEN}"),
    _Rule("whsec_", re.compile(r"(whsec_)[\w+/=]+"), rf"\1{_HIDDEN}"),
    _Rule("_secret_", re.compile(r"(_secret_)\w+"), rf"\1{_HIDDEN}"),
    _Rule("eyj", _TOKEN, _name_token),
    _Rule(
        "private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)", re.DOTALL), "[private key]"
    ),
    _Rule(":", re.compile(r"([\"'\\](?:d|p|q|dp|dq|qi|k)[\"'\\]+\s*:\s*[\"'\\]+)[\w-]{16,}"), rf"\1{_HIDDEN}"),  # JWK
    *(
        _Rule(
            word,
            re.compile(rf"({word}[\"'\\]*\s*[:=]\s*[\"'\\]*(?:Bearer |Basic )?)[^\s\"'\\,;&}}]+", re.IGNORECASE),
            rf"\1{_HIDDEN}",
        )
        for word in _SENSITIVE
    ),
    # Data that PostgreSQL, asyncpg and SQLAlchemy quote in their errors.
    _Rule(
        "detail:",
        re.compile(r"DETAIL:(?! \[removed).*?(?=\n(?:HINT|CONTEXT):|\n\s*\n|\Z)", re.DOTALL),
        "DETAIL: [removed]",
    ),
    _Rule(")=(", re.compile(r"\)=\([^\n]*\)"), ")=(***)"),
    _Rule("row contains (", re.compile(r"(row contains )\([^\n]*"), r"\1(***)"),
    _Rule("query argument", re.compile(rf"(query argument \$\d{{1,5}}{_UP_TO_COLON})[^\n]*"), r"\1 [removed]"),
    _Rule("invalid input", re.compile(rf"(invalid input (?:syntax|value){_UP_TO_COLON})[^\n]*"), r"\1 [removed]"),
    _Rule('value "', re.compile(r'value "[^"\n]*"'), f'value "{_HIDDEN}"'),
    _Rule("out of range: ", re.compile(r"(out of range: )[^\n]*"), r"\1[removed]"),
    _Rule("[parameters:", re.compile(r"\[parameters:[^\n]*"), "[parameters removed]"),
)


def redact(text: str, *, max_characters: int = TEXT_MAX) -> str:
    """The text without card numbers, security codes, keys, passwords or quoted rows, cut to `max_characters`.

    The result is valid UTF-8 and has no NUL, so that PostgreSQL and JSON take it. A text that has an encoded card number is removed whole.
    """
    try:
        return _redact(text, max_characters)
    except Exception:  # noqa: BLE001 - a text on which a rule fails is left out: a log line must not stop a service
        return _UNFIT


def _redact(text: str, max_characters: int) -> str:
    text = beginning(text, _READ_MAX)
    lowered = text.lower()
    for rule in _RULES:
        if rule.hint in lowered:
            text = rule.pattern.sub(rule.replacement, text)
    shown = mask_card_data(text)
    if shown is None:
        return CARD_DATA_ENCODED
    if len(shown) > max_characters:
        shown = shown[: max_characters - 1] + "…"
    if shown.isascii() and "\x00" not in shown:
        return shown
    return shown.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


# -- structures --------------------------------------------------------------------------------------------------------


def redact_value(value: object) -> object:
    """Any value as redacted JSON data, with limited depth and number of items. A value that JSON does not know becomes its `str`."""
    try:
        return _redact_value(value, _DEPTH_MAX)
    except Exception:  # noqa: BLE001 - the `__str__` or `__iter__` of a foreign class may do anything
        return _UNFIT


def _redact_value(value: object, depth: int) -> object:
    match value:
        case None | bool():
            return value
        case str():
            return redact(value)
        case int() | float():
            return _redact_number(value)
        case bytes() | bytearray():
            return redact(value.decode("utf-8", "backslashreplace"))
        case BaseException():
            return describe_error(value)
        case Mapping() | list() | tuple() | set() | frozenset():
            return "[too deep]" if depth == 0 else _redact_items(value, depth - 1)
        case _:
            return redact(str(value))


def _redact_number(number: float) -> object:
    if has_card_data(scalar_text(number)):
        return CARD_PLACEHOLDER
    return number if abs(number) < _JSON_INTEGER_MAX else redact(repr(number))


def _redact_items(
    value: Mapping[object, object] | list[object] | tuple[object, ...] | set[object] | frozenset[object], depth: int
) -> object:
    if isinstance(value, Mapping):
        members = islice(value.items(), _ITEMS_MAX)
        return {redact(str(name)): redact_member(str(name), member, depth) for name, member in members}
    return [_redact_value(item, depth) for item in islice(value, _ITEMS_MAX)]


def redact_member(name: str, value: object, depth: int = _DEPTH_MAX) -> object:
    """The redacted value of a named field. It is hidden whole if the name is that of a secret or a security code."""
    if value is not None and (is_cvv_name(name) or _IS_SENSITIVE.search(name)):
        return _HIDDEN
    try:
        return _redact_value(value, depth)
    except Exception:  # noqa: BLE001 - as in `redact_value`
        return _UNFIT


# -- exceptions --------------------------------------------------------------------------------------------------------


def error_text(error: BaseException, *, max_characters: int = TEXT_MAX) -> str:
    """The text of an exception, redacted, without the data that errors of databases and validation quote."""
    try:
        text = _text_without_data(error)
    except Exception:  # noqa: BLE001 - the `__str__` of a foreign class may do anything
        return _UNFIT
    return redact(text, max_characters=max_characters)


def describe_error(error: BaseException, *, max_characters: int = TEXT_MAX) -> str:
    """The type and text of an exception, redacted: `Type: text`."""
    text = error_text(error, max_characters=max_characters)
    return f"{type(error).__qualname__}: {text}" if text else type(error).__qualname__


def traceback_text(error: BaseException, *, max_characters: int = TRACEBACK_MAX) -> str:
    """The redacted traceback: causes first, groups with their members, source lines, never local variables."""
    try:
        text = "\n".join(_traceback_lines(error, depth=3))
        return text if len(text) <= max_characters else "…" + text[1 - max_characters :]  # the end matters most
    except Exception:  # noqa: BLE001 - as in `redact_value`
        return describe_error(error)


def show_uncaught(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    """A `sys.excepthook` that shows no secret and nothing that would act on the terminal."""
    sys.stderr.write(f"{visible(traceback_text(error), lines=True)}\n")


_LOGIN: Final = "are user and password of the database URL right?"
_REFUSED_BY_SQLSTATE: Final[dict[str | None, str]] = {
    "42501": "`remit permissions` shows what each role needs",
    "28P01": _LOGIN,
    "28000": _LOGIN,
    "3D000": "is the name of the database in the URL right?",
}
"""What an operator does about a database that is there and refuses us."""


def _text_without_data(error: BaseException) -> str:
    """The text of an exception without quoted data.

    Errors of asyncpg and pydantic are recognised by module and attribute, because this package imports neither.
    """
    module = type(error).__module__
    if module.startswith("asyncpg") and error.args:
        # `str()` would add DETAIL, which shows the row.
        known = (getattr(error, name, None) for name in ("sqlstate", "table_name", "constraint_name"))
        text = " / ".join([str(error.args[0]), *(str(part) for part in known if part)])
        known_better = "; ".join(
            getattr(error, "__notes__", ())
        )  # `shared.persistence.database` says which right it is
        advice = known_better or _REFUSED_BY_SQLSTATE.get(getattr(error, "sqlstate", None))
        return f"{text}; {advice}" if advice else text
    if module.startswith("pydantic_core") and hasattr(error, "errors"):
        # `str()` would show the input.
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
    return str(error)


def _traceback_lines(error: BaseException, depth: int) -> Iterator[str]:
    for position, link in enumerate(_chain(error)):
        if position:
            yield "which led to"
        for frame in traceback.extract_tb(link.__traceback__)[-_FRAMES_MAX:]:
            yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
            if frame.line:
                yield f"    {redact(frame.line)}"
        yield _indented(describe_error(link))
        yield from (f"  note: {_indented(redact(str(note)))}" for note in getattr(link, "__notes__", ()))
        if isinstance(link, BaseExceptionGroup) and depth:
            for member in link.exceptions[:_CHAIN_MAX]:
                yield from (f"  | {line}" for line in _traceback_lines(member, depth - 1))


def _indented(text: str) -> str:
    """The text with further lines indented, so that none of them looks like a line of the log."""
    return text.replace("\n", "\n    ")


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links and len(links) < _CHAIN_MAX:
        links.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links[::-1]
