"""How the desk shows money, moments, counts, ids and texts of strangers."""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import nodes

from services.staff.desk import shown
from services.staff.desk.frame import ENVIRONMENT, PageFrame
from shared.contracts.currencies import ISO_4217, in_major_units

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 28, 2, 14, 7, tzinfo=UTC)
TAGS = re.compile(r"<[^>]*>")


def text_of(markup: str) -> str:
    return TAGS.sub("", markup)


@pytest.mark.parametrize(
    ("amount", "currency", "html"),
    [
        (124_000, "EUR", '<span class="money"><span class="k">1</span>240.00 EUR</span>'),
        (5, "EUR", '<span class="money">0.05 EUR</span>'),
        (-124_050, "EUR", '<span class="money">-<span class="k">1</span>240.50 EUR</span>'),
        (1_240, "JPY", '<span class="money"><span class="k">1</span>240 JPY</span>'),
        (1_240_567, "KWD", '<span class="money"><span class="k">1</span>240.567 KWD</span>'),
        (None, "EUR", '<span class="soft">amount not known yet</span>'),
        (1, "X<Y", '<span class="money">1 X&lt;Y, in its smallest unit</span>'),
    ],
)
def test_money(amount: int | None, currency: str, html: str) -> None:
    assert shown.money(amount, currency) == html


@given(st.integers(0, 10**12), st.sampled_from(sorted(ISO_4217)))
def test_a_copy_of_an_amount_is_clean(amount: int, currency: str) -> None:
    assert text_of(shown.money(amount, currency)) == in_major_units(amount, currency)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1_000, "1k"), (6_620, "6.6k"), (999_999, "999.9k"), (1_250_000, "1.2M")],
)
def test_a_count_in_the_menu(number: int, text: str) -> None:
    assert shown.count_short(number) == text


def test_a_count_elsewhere_is_whole() -> None:
    assert text_of(shown.count(6_620)) == "6620"
    assert shown.count(812_400) == '<span class="number"><span class="k">812</span>400</span>'


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=5), "5 min"),
        (timedelta(hours=4, minutes=12, seconds=59), "4 h 12 min"),
        (timedelta(hours=3), "3 h"),
        (timedelta(days=1, hours=10), "1 d 10 h"),
        (timedelta(days=30), "30 d"),
    ],
)
def test_an_age(span: timedelta, text: str) -> None:
    assert shown.age_text(span) == text


@pytest.mark.parametrize(
    ("at", "form", "text"),
    [
        (NOW, "second", "28 Nov, 03:14:07"),
        (NOW, "clock", "03:14:07"),
        (NOW, "minute", "28 Nov, 03:14"),
        (NOW.replace(microsecond=104_999), "milliseconds", "28 Nov, 03:14:07.104"),
        (NOW.replace(year=2025), "day", "28 Nov 2025"),
        (datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC), "second", "29 Mar, 01:59:59"),
        (datetime(2026, 3, 29, 1, 0, 0, tzinfo=UTC), "second", "29 Mar, 03:00:00"),
        (NOW - timedelta(hours=4, minutes=12), "list", "4 h 12 minsince 27 Nov, 23:02"),
        (NOW - timedelta(hours=48), "list", "26 Nov, 03:14"),
    ],
)
def test_a_moment(at: datetime, form: Any, text: str) -> None:
    assert text_of(shown.moment_markup(at, form, zone=BERLIN, now=NOW)) == text


def test_a_moment_is_in_utc_for_programs() -> None:
    html = shown.moment_markup(NOW, "second", zone=BERLIN, now=NOW)
    assert html.startswith('<time datetime="2026-11-28T02:14:07Z">')


def test_the_day_is_said_where_it_changes() -> None:
    before = NOW - timedelta(minutes=1)
    assert text_of(shown.moment_markup(NOW, "second", zone=BERLIN, now=NOW, after=before)) == "03:14:07"
    midnight = datetime(2026, 11, 27, 23, 0, 1, tzinfo=UTC)
    html = shown.moment_markup(midnight, "second", zone=BERLIN, now=NOW, after=midnight - timedelta(seconds=2))
    assert text_of(html) == "28 Nov, 00:00:01"


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        (UTC, "UTC"),
        (BERLIN, "Berlin, UTC+1"),
        (ZoneInfo("Asia/Kolkata"), "Kolkata, UTC+5:30"),
        (ZoneInfo("America/St_Johns"), "St Johns, UTC-3:30"),
        (ZoneInfo("UTC"), "UTC"),
    ],
)
def test_a_zone(zone: Any, text: str) -> None:
    assert shown.zone_text(zone, NOW) == text


def test_an_id_is_shortened_to_its_end() -> None:
    assert shown.end(UUID("01933ac4-7d1e-7b02-9a61-c04f4ba5a280")) == "…4ba5a280"
    assert shown.end("INV-20418") == "INV-20418"
    assert "\u202e" not in shown.end("\u202eabcdefghijkl\u202e")


HOSTILE = [
    '<script>alert("1")</script>',
    "\x1b[2J",
    "\u202egnp.exe",
    "a\u200bb",
    "\ud800",
    "x\ny",
    "' onload='x",
    "&amp;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_others_are_only_read(text: str) -> None:
    html = str(shown.theirs(text))
    assert not set("<>\"'\n\x1b\u202e\u200b\ud800") & set(html)
    html.encode()


@given(st.text(st.characters(codec=None), max_size=200))
@example("\n\t ")
def test_whatever_others_write_is_safe(text: str) -> None:
    for html in (str(shown.theirs(text)), str(shown.theirs_in_lines(text))):
        html.encode()
        assert "<" not in html
        assert not re.search(r"&(?!(amp|lt|gt|#34|#39);)", html)
        assert all(unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") or one in "\n\t" for one in html)
        assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200e\u200f\ufeff") & set(html)


def test_a_word_of_64_kib_is_shown_and_a_longer_one_cut() -> None:
    word = "w" * shown.THEIRS_LENGTH_MAX
    assert shown.theirs(word) == word
    assert text_of(shown.theirs(f"{word}xyz")) == f"{word}… and 3 more characters"
    assert text_of(shown.theirs("abcdef", 2)) == "ab… and 4 more characters"


# -- templates ---------------------------------------------------------------------------------------------------------------------------

MAKES_MARKUP = frozenset({"theirs", "theirs_in_lines", "money", "count", "moment", "exact"})
OURS = "contract.html"
"""It shows markup that was made of our own files."""


def test_what_a_template_puts_out_is_visible_even_where_it_says_no_filter() -> None:
    page = ENVIRONMENT.from_string("{{ a }} {{ a ~ 1 }} {{ '%s' | format(a) }} {{ [a] | join }} {{ a | exact }}")
    assert page.render(a="<\u202e") == " ".join(
        [r"&lt;\u202e", r"&lt;\u202e1", r"&lt;\u202e", r"&lt;\u202e", "&lt;\u202e"]
    )


def is_markup(node: nodes.Node) -> bool:
    """Whether an operand is markup: then what is joined to it is no plain text any more, which would be made visible."""
    match node:
        case nodes.Filter(name=name):
            return name in MAKES_MARKUP
        case nodes.Call(node=nodes.Getattr(node=nodes.Name(name="p" | "s"))):
            return True
        case nodes.CondExpr(expr1=one, expr2=other):
            return is_markup(one) or (other is not None and is_markup(other))
        case nodes.Or(left=one, right=other):
            return is_markup(one) or is_markup(other)
        case _:
            return False


def joined(template: str) -> list[tuple[int, list[nodes.Expr]]]:
    """The operands of every `~` of a template, with their lines."""
    tree = ENVIRONMENT.parse(ENVIRONMENT.loader.get_source(ENVIRONMENT, template)[0])  # type: ignore[union-attr]
    return [(node.lineno, node.nodes) for node in tree.find_all(nodes.Concat)]


@pytest.mark.parametrize("template", ENVIRONMENT.list_templates())
def test_no_text_of_others_is_joined_to_markup(template: str) -> None:
    """Markup and a text make markup, in which nothing is made visible any more."""
    mixed = [
        line
        for line, operands in joined(template)
        if any(is_markup(one) for one in operands)
        and not all(is_markup(one) or isinstance(one, nodes.Const) for one in operands)
    ]
    assert not mixed


@pytest.mark.parametrize("template", [name for name in ENVIRONMENT.list_templates() if name != OURS])
def test_no_text_of_others_is_called_safe(template: str) -> None:
    tree = ENVIRONMENT.parse(ENVIRONMENT.loader.get_source(ENVIRONMENT, template)[0])  # type: ignore[union-attr]
    safe = [node for node in tree.find_all(nodes.Filter) if node.name == "safe"]
    assert all(isinstance(node.node, nodes.Const) for node in safe)


def test_moments_in_a_sentence_are_in_the_zone_of_whoever_looks() -> None:
    template = ENVIRONMENT.from_string("{{ text | in_zone }}")
    text = "<b> decided at 2026-11-28 02:14:07 UTC, not at 2026-13-99 02:14:07 UTC\u202e"
    drawn = template.render(text=text, frame=PageFrame("", BERLIN, True, NOW, "/"))
    assert drawn == (
        '&lt;b&gt; decided at <time datetime="2026-11-28T02:14:07Z">28 Nov, 03:14:07</time>, '
        "not at 2026-13-99 02:14:07 UTC\\u202e"
    )
