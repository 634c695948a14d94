"""How things are shown: the only filters of the templates. Money, moments, counts, ids, and texts of strangers, each in one way everywhere.

A filter returns markup that is safe: what it got is escaped, and what would act or not be seen is made visible.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from shared.contracts.currencies import ISO_4217
from shared.observability.visible import visible

AGE_SHOWN = timedelta(hours=48)
"""In lists, what is younger shows its age as well."""
THEIRS_LENGTH_MAX = 64 * 1024
"""Characters of a text of others that a page shows. A page stays one that a browser can show, whatever it was sent."""
COUNT_WHOLE_MAX = 999
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ID_END = 8
Form = Literal["list", "second", "milliseconds", "minute", "clock", "day"]


# -- money and numbers -----------------------------------------------------------------------------------------------------------------


def money(amount_minor: int | None, currency: str | None) -> Markup:
    """An amount with the decimals of its currency and the code behind it. Groups of three are set apart by a gap that is no character."""
    if amount_minor is None or currency is None:
        return Markup('<span class="soft">amount not known yet</span>')
    decimals = ISO_4217.get(currency)
    if decimals is None:
        return Markup('<span class="money">{} {}, in its smallest unit</span>').format(
            _grouped(str(amount_minor)), visible(currency)
        )
    sign, digits = ("-" if amount_minor < 0 else ""), str(abs(amount_minor)).rjust(decimals + 1, "0")
    whole, part = (digits[:-decimals], f".{digits[-decimals:]}") if decimals else (digits, "")
    return Markup('<span class="money">{}{}{} {}</span>').format(sign, _grouped(whole), part, currency)


def count(number: int) -> Markup:
    """A whole number, in groups of three."""
    return Markup('<span class="number">{}</span>').format(_grouped(str(number)))


def count_short(number: int) -> str:
    """A number for the menu: `6.6k` above 999. It is cut, not rounded, so that it never says more than there is."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if number > COUNT_WHOLE_MAX and number >= size:
            return f"{number * 10 // size / 10:g}{unit}"
    return str(number)


def _grouped(digits: str) -> Markup:
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    first = len(digits) % 3 or 3
    groups = [digits[:first], *(digits[at : at + 3] for at in range(first, len(digits), 3))]
    spaced = Markup("").join(Markup('<span class="k">{}</span>').format(group) for group in groups[:-1])
    return Markup("{}{}{}").format(sign, spaced, groups[-1])


# -- time ------------------------------------------------------------------------------------------------------------------------------


def age_text(span: timedelta) -> str:
    """How long something takes or waits, in its two largest units: `4 h 12 min`. What lies ahead of a wrong clock takes no time."""
    seconds = max(0, int(span.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"
    if hours:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    if minutes:
        return f"{minutes} min"
    return f"{seconds} s"


def moment_markup(at: datetime, form: Form, *, zone: tzinfo, now: datetime, after: datetime | None = None) -> Markup:
    """A moment in this zone. `after` is the moment shown before it: the day is left out if it is the same."""
    local = at.astimezone(zone)
    text = _moment_text(local, form, now=now.astimezone(zone), after=None if after is None else after.astimezone(zone))
    shown = Markup('<time datetime="{}">{}</time>').format(_in_utc(at, form), text)
    if form != "list" or now - at >= AGE_SHOWN:
        return shown
    return Markup('{}<span class="sub">since {}</span>').format(age_text(now - at), shown)


def _moment_text(local: datetime, form: Form, *, now: datetime, after: datetime | None) -> str:
    day = f"{local.day} {_MONTHS[local.month - 1]}" + (f" {local.year}" if local.year != now.year else "")
    match form:
        case "day":
            return day
        case "list" | "minute":
            clock = f"{local:%H:%M}"
        case "milliseconds":
            clock = f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"
        case _:
            clock = f"{local:%H:%M:%S}"
    if form == "clock" or (after is not None and after.date() == local.date()):
        return clock
    return f"{day}, {clock}"


def _in_utc(at: datetime, form: Form) -> str:
    spec = "milliseconds" if form == "milliseconds" else "seconds"
    return at.astimezone(UTC).isoformat(timespec=spec).replace("+00:00", "Z")


def zone_text(zone: tzinfo, now: datetime) -> str:
    """What the frame says of a zone: `Berlin, UTC+1`."""
    name = zone.key if isinstance(zone, ZoneInfo) else "UTC"
    offset = now.astimezone(zone).utcoffset() or timedelta()
    minutes = int(offset.total_seconds() // 60)
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    away = f"UTC{sign}{hours}" + (f":{rest:02d}" if rest else "") if minutes else "UTC"
    city = name.rpartition("/")[2].replace("_", " ")
    return away if city == "UTC" else f"{city}, {away}"


@pass_context
def moment(context: Context, at: datetime | None, form: Form = "second", after: datetime | None = None) -> Markup:
    """A moment in the zone of whoever looks. In a list, what is younger than 48 hours shows its age first."""
    if at is None:
        return Markup('<span class="soft">not known</span>')
    frame = context["frame"]
    return moment_markup(at, form, zone=frame.zone, now=frame.as_of, after=after)


@pass_context
def age(context: Context, at: datetime) -> str:
    """How long ago a moment is, for use within a sentence."""
    return age_text(context["frame"].as_of - at)


_IN_UTC = re.compile(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC\b")
"""A moment in a sentence of an action (`actions.results.moment_text`)."""


@pass_context
def in_zone(context: Context, text: str) -> Markup:
    """A sentence whose moments are shown in the zone of whoever looks. It is shown as `theirs` is."""
    parts = _IN_UTC.split(text)
    shown = [theirs(part) if place % 2 == 0 else _moment_in(context, part) for place, part in enumerate(parts)]
    return Markup("").join(shown)


def _moment_in(context: Context, text: str) -> Markup:
    try:
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return theirs(f"{text} UTC")
    return moment_markup(at, "second", zone=context["frame"].zone, now=context["frame"].as_of)


# -- ids and texts of others -----------------------------------------------------------------------------------------------------------


def end(id_: UUID | str) -> str:
    """The end of an id, by which people tell ids apart: those of the same minutes begin alike."""
    text = visible(str(id_))
    return text if len(text) <= _ID_END + 1 else f"…{text[-_ID_END:]}"


def theirs(text: object, at_most: int = THEIRS_LENGTH_MAX) -> Markup:
    """A text of a sender, of the gateway or of a person: never markup, and nothing in it acts or hides. Line feeds are made visible."""
    return _cut(str(text), at_most, lines=False)


def theirs_in_lines(text: object, at_most: int = THEIRS_LENGTH_MAX) -> Markup:
    """The same for a text of several lines, such as a body: its line feeds and tabs stay."""
    return _cut(str(text), at_most, lines=True)


def exact(text: object) -> Markup:
    """A text as a form sends it or a script copies it, for the value of an attribute or of a field: escaped, and nothing else."""
    return escape(str(text))


def seen(value: object) -> object:
    """Whatever a template puts out: a text that is no markup of ours is made visible, so that no place can forget it."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cut(text: str, at_most: int, *, lines: bool) -> Markup:
    shown = escape(visible(text[:at_most], lines=lines))
    left = len(text) - at_most
    return shown if left <= 0 else Markup('{}<span class="soft">… and {} more characters</span>').format(shown, left)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "money": money,
    "count": count,
    "count_short": count_short,
    "moment": moment,
    "in_zone": in_zone,
    "age": age,
    "span": age_text,
    "end": end,
    "theirs": theirs,
    "theirs_in_lines": theirs_in_lines,
    "exact": exact,
}
"""The filters by their names in templates. `count` takes the place of Jinja's, which is another name of `length`."""
