"""What is shown is safe: no text of others controls a terminal, a log or a page."""

import io
import json
import logging
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli import main as cli
from deploy.cli.output import say, write_json, write_line
from deploy.cli.terminal import SafeConsole
from shared.observability.health import Liveness, Readiness, health_app
from shared.observability.logs import _console, _Formatter, _render_json, configure_logs, get_logger
from shared.observability.redaction import show_uncaught
from shared.observability.visible import visible, visible_json
from tests.support.hostile import CONTROLS, HOSTILE, controls_in

EVERYTHING = "".join(HOSTILE.values())
ANY_TEXT = st.text(st.characters() | st.sampled_from(sorted(CONTROLS)))


@pytest.mark.parametrize(
    ("text", "one_line", "lines"),
    [
        ("plain text", "plain text", "plain text"),
        ("\x1b[2J\x9b\x7f", r"\x1b[2J\x9b\x7f", r"\x1b[2J\x9b\x7f"),
        ("a\nb\tc\r", r"a\nb\tc\r", "a\nb\tc\\r"),
        ("\u202eb\u2066\u200b\ufeff", r"\u202eb\u2066\u200b\ufeff", r"\u202eb\u2066\u200b\ufeff"),
        ("\U000e0041", r"\U000e0041", r"\U000e0041"),
        ("\ud800", r"\ud800", r"\ud800"),
        ("12,50 \u20ac \u4e2d \u05d0 e\u0301 \U0001f4b8", "12,50 \u20ac \u4e2d \u05d0 e\u0301 \U0001f4b8", None),
    ],
)
def test_what_acts_or_is_not_seen_is_made_visible(text: str, one_line: str, lines: str | None) -> None:
    assert visible(text) == one_line
    assert visible(text, lines=True) == (one_line if lines is None else lines)


@given(ANY_TEXT)
def test_nothing_of_it_stays_and_nothing_else_changes(text: str) -> None:
    assert not controls_in(visible(text), lines=False)
    assert not controls_in(visible(text, lines=True)) - {"\t"}
    visible(text).encode()
    assert visible(text) == "".join(map(visible, text))
    for character in text:
        shown = visible(character)
        assert shown == character or shown.encode().decode("unicode_escape") == character


@given(st.recursive(ANY_TEXT.filter(lambda text: not re.search("[\ud800-\udfff]", text)), st.lists, max_leaves=5))
def test_json_stays_the_same_json(value: Any) -> None:
    written = visible_json(orjson.dumps(value).decode())
    assert orjson.loads(written) == value
    assert json.loads(written) == value
    assert not controls_in(written)


# -- logs --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_log_line_is_one_line_and_acts_on_nothing(format_: str, text: str) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure_logs("tests", level="INFO", format=format_, stream=stream)
        get_logger("test").info(f"event {text}", text=text, deep={"a": [text]}, **{f"field{text}": text}, end=1)
        logging.getLogger("library").warning("said %s", text)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = stream.getvalue()
    assert not controls_in(lines), lines
    assert lines.count("\n") == 2, lines


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("render", [_render_json, _console(colors=False)], ids=["json", "console"])
def test_an_error_forges_no_line_of_the_log(render: Any, text: str) -> None:
    error = ValueError(f"fine\n2026-01-01T00:00:00Z [info     ] paid {text}")
    error.add_note(f"fine\n2026-01-01T00:00:00Z [info     ] paid {text}")
    record = logging.LogRecord("test", logging.ERROR, "f", 1, "failed", (), (ValueError, error, None))
    line = _Formatter("tests", render).format(record)
    assert not controls_in(line), line
    assert not re.search(r"^2026-01-01", line, re.MULTILINE), line


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_a_probe_answers_safely(text: str) -> None:
    readiness = Readiness()
    readiness.set("database", ok=False, reason=text)
    handlers = {
        str(route.resource.canonical): route.handler
        for route in health_app(readiness, Liveness()).router.routes()
        if route.resource
    }
    answer: Any = await handlers["/readyz"](None)  # type: ignore[arg-type] # it looks at no request
    assert not controls_in(answer.text)


# -- the command line --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_command_prints_is_safe(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(text))
    table.add_column(Text(text))
    table.add_row(Text(text), Text(text))
    SafeConsole(width=80).print(table, Text(text), text, markup=False)
    say(text)
    write_line(text)
    if "\ud800" not in text:
        write_json({"text": text, text: [text]})
    shown = capsys.readouterr()
    assert not controls_in(shown.out), shown.out
    assert not controls_in(shown.err), shown.err
    assert shown.err.count("\n") == 1, "a sentence is one line"


def test_colours_still_reach_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    SafeConsole(force_terminal=True, color_system="standard").print("[red]x[/]")
    assert "\x1b[31m" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [EVERYTHING],
        [f"--{EVERYTHING}"],
        ["invoice", EVERYTHING],
        ["invoice", "list", "--status", EVERYTHING],
        ["invoice", "list", "--limit", EVERYTHING],
        ["invoice", "list", f"--{EVERYTHING}=1"],
        ["invoice", "list", EVERYTHING],
        ["command", "show", EVERYTHING],
        ["invoice", "void", EVERYTHING, "--reason", EVERYTHING],
        ["invoice", "pay", "INV-1", "--amount-minor", "5", "--currency", EVERYTHING, "--token", EVERYTHING],
        ["invoice", "pay", "INV-1", "--amount-minor", "5", "--currency", "EUR", "--card", "--key-file", EVERYTHING],
        ["card", "encrypt", "--payment-id", EVERYTHING],
        ["card", "keys", "--private", EVERYTHING, "--public", EVERYTHING],
        ["card", "public", "--private", EVERYTHING],
        ["migrate", EVERYTHING],
        ["run", EVERYTHING],
        ["audit", "--without", EVERYTHING],
        ["audit", "--ledger", EVERYTHING],
        ["dead-letters", "list", "--older-than", EVERYTHING],
        ["dead-letters", "show", EVERYTHING],
        ["payments", "resolve", EVERYTHING, EVERYTHING, "--version", EVERYTHING],
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:20].encode("ascii", "replace").decode(),
)
def test_an_argument_that_is_quoted_acts_on_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STAFF_DATABASE_URL", raising=False)
    monkeypatch.delenv("INVOICE_DATABASE_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    shown = capsys.readouterr()
    assert ended.value.code in {1, 2}
    assert not controls_in(shown.out + shown.err), shown.err


@pytest.mark.parametrize("name", ["RABBITMQ_URL", "STAFF_DATABASE_URL"])
def test_a_variable_that_is_quoted_acts_on_nothing(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, EVERYTHING.replace("\0", "").replace("\ud800", ""))
    with pytest.raises(SystemExit) as ended:
        cli.main(["topology", "check"] if name == "RABBITMQ_URL" else ["payments", "in-doubt"])
    assert ended.value.code in {1, 2}
    assert not controls_in(capsys.readouterr().err)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_bug_shows_no_text_that_acts(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_uncaught(ValueError, ValueError(f"no event is stored as {text}"), None)
    shown = capsys.readouterr().err
    assert "ValueError: no event is stored as" in shown
    assert not controls_in(shown)
    assert "4242 4242" not in shown
