"""The activity log: who did what, whether its chain is whole, and the log as a file."""

import asyncio
import csv
import io
import json
import re
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from services.staff import store
from services.staff.desk.pages.activity import ENTRIES_A_PAGE
from services.staff.desk.spreadsheet import cell
from services.staff.journal_check import PAUSE_S, JournalCheck
from services.staff.people import Actor, Role, Via
from services.staff.runs import RunAct
from services.staff.store import JournalEntry
from tests.service.staff.desk.test_live import LiveBrowser
from tests.support.databases import execute, unguarded
from tests.support.desk_browser import NOW, DeskBrowser, DeskUnderTest, SeenPage
from tests.support.environment import Environment
from tests.support.kept_cases import keep_case
from tests.support.kept_letters import event, keep

HOSTILE = "<script>alert(1)</script>\u202e=cmd()\x1b[31m"


async def act(
    desk: DeskUnderTest, who: str, did: str, subject: UUID | None = None, /, *, minutes: float = 0, **details: Any
) -> UUID:
    """An entry of the log. Returns what it is about."""
    about = subject or uuid4()
    entry = JournalEntry.of(Actor(who, Via.DESK, frozenset()), NOW + timedelta(minutes=minutes), did, about, details)
    async with desk.desk.database.transaction() as tx:
        await store.append_entries(tx, [entry])
    return about


async def looked(desk: DeskUnderTest) -> None:
    check = JournalCheck(desk.desk.database, desk.clock)
    while await check.run_once() == PAUSE_S:
        pass


async def opened(desk: DeskUnderTest, address: str = "/activity") -> SeenPage:
    return await (await viewer(desk)).open(address)


async def viewer(desk: DeskUnderTest) -> DeskBrowser:
    return await desk.browser("vera", Role.VIEWER)


def rows_of(page: SeenPage) -> list[int]:
    return [int(id_[1:]) for id_ in page.ids if id_[:1] == "e" and id_[1:].isdigit()]


async def test_entries_are_told_in_words_the_latest_first(desk: DeskUnderTest) -> None:
    await act(desk, "ann.resolver", "ask")
    case = await act(desk, "ben.resolver", "propose", resolution="not_charged", reason="The gateway never had it.")
    await act(desk, "ben.resolver", "refused", case, action="resolve", code="receipt_number_required")
    page = await opened(desk)
    assert rows_of(page) == [4, 3, 2, 1], "the first entry is that of who looks and signed in"
    for words in (
        "vera signed in",
        "ann.resolver asked the gateway",
        "ben.resolver proposed: not charged",
        "The gateway never had it.",
        "waits for a second person",
        "ben.resolver tried to decide",
        "refused: receipt number required",
    ):
        assert words in page.text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("who=ann", [1, 3]),
        ("action=replay", [1]),
        ("action=Replays", [1, 4]),
        ("action=Refusals", [3]),
        ("who=ann&action=Refusals", [3]),
        ("action=Decisions", [2]),
        ("action=Decisions&who=ann", []),
        ("action=nonsense", []),
        ("day=2026-11-28", [1, 2, 3, 5]),
        ("day=2026-11-29", [4]),
        ("day=2026-11-27", []),
        ("about=R-119", [4]),
        ("about=INV-9", []),
        ("who=&action=&about=&day=", [1, 2, 3, 4, 5]),
    ],
)
async def test_filters(desk: DeskUnderTest, query: str, found: list[int]) -> None:
    await act(desk, "ann", "replay")
    await act(desk, "ben", "resolve")
    await act(desk, "ann", "refused")
    await act(desk, "cleo", "run_rest", about="R-119", minutes=24 * 60)
    page = await opened(desk, f"/activity?{query}")
    assert sorted(rows_of(page)) == found
    if not found:
        assert f"Nobody did anything that {'day' if query.startswith('day') else 'matches'}." in page.text


async def test_the_log_and_its_chain_are_live(desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that a filter does not mean are none of its news."""
    live = desk.app.state.live
    monkeypatch.setattr(live, "_run", lambda: asyncio.sleep(0))  # rounds happen when the test says so
    browser = await viewer(desk)
    keys = {}
    for query in ("", "?who=ann&action=Replays"):
        page = await browser.open(f"/activity{query}")
        keys[query] = unescape(re.findall('data-live="(activity:[^"]+)"', page.html)[0])
    listener = await LiveBrowser(
        desk, browser, quote(",".join([*keys.values(), "chain:now", "activity:seen=x"]))
    ).open()
    await live.round()
    first = dict([await listener.hear_part() for _ in range(4)])
    assert [first[key].count("<a") for key in (*keys.values(), "activity:seen=x")] == [0, 0, 0]
    assert 'There are <span class="number">1</span> entries.' in first["chain:now"]
    await act(desk, "ann", "ask")
    await act(desk, "ann", "replay")
    await live.round()
    news = dict([await listener.hear_part() for _ in range(3)])
    assert [re.findall('href="([^"]+)|>([0-9]+)<', news[key]) for key in keys.values()] == [
        [("/activity?", ""), ("", "2")],
        [("/activity?who=ann&amp;action=Replays", ""), ("", "1")],
    ]
    assert 'There are <span class="number">3</span> entries.' in news["chain:now"]
    await listener.close()


async def test_an_entry_tells_what_the_act_changed_and_in_which_request(desk: DeskUnderTest) -> None:
    case = await keep_case(desk.desk.database)
    (letter,) = await keep(desk.desk.database, event(1))
    ann = await desk.browser("ann", *Role)
    await ann.submit(await ann.open(f"/cases/{case}"), f"/cases/{case}/claim")
    page = await ann.open(f"/dead-letters/{letter}")
    await ann.submit(page, f"/dead-letters/{letter}/replay")
    await ann.submit(await ann.open("/people"), "/people/edit-and-replay")
    program = await desk.token("robot", *Role)
    told = [(await program.get(f"/api/v1/activity/{position}")).json()["entry"] for position in (2, 3, 4, 5)]
    stands = "status: needs_decision; version: 4"
    assert [(one["action"], one["before"], one["after"]) for one in told] == [
        ("claim", stands, f"{stands}; claimed by: ann"),
        ("replay", "status: open; replays: 0", "status: replayed; replays: 1"),
        ("change_setting", "value: none", "value: yes"),
        ("add_token", None, None),
    ]
    assert told[1]["request"] == page.form(f"/dead-letters/{letter}/replay").fields["once"][0]
    entry = await ann.open("/activity/3")
    for words in (
        "Before status: open; replays: 0",
        "After status: replayed; replays: 1",
        f"Request {told[1]['request']}",
    ):
        assert words in entry.text


async def test_about_takes_an_id_its_end_and_an_invoice(desk: DeskUnderTest, environment: Environment) -> None:
    payment = await act(desk, "ann", "ask")
    await act(desk, "ann", "ask")
    await execute(
        environment.databases["staff"],
        """INSERT INTO cases (payment_id, invoice_id, correlation_id, status, version, attempts_version, details, opened_at, updated_at)
           VALUES ($1, 'INV-7', 'c', 'in_doubt', 1, 0, '{"attempts": [], "refusals": [], "decision": null}', now(), now())""",
        payment,
    )
    for about in (str(payment), str(payment)[-8:], f"…{str(payment)[-8:].upper()}", "INV-7"):
        page = await opened(desk, f"/activity?about={about}")
        assert rows_of(page) == [1], about
        assert f"/cases/{payment}" in page.links
        assert "INV-7" in page.text


async def test_pages_go_on_where_the_last_one_ended_with_the_same_filter(desk: DeskUnderTest) -> None:
    for number in range(ENTRIES_A_PAGE + 2):
        await act(desk, "ann" if number else "ben", "ask")
    browser = await viewer(desk)
    first = await browser.open("/activity?who=ann")
    (following,) = [link for link in first.links if "before=" in link]
    second = await browser.open(following)
    assert [len(rows_of(page)) for page in (first, second)] == [ENTRIES_A_PAGE, 1]
    assert not set(rows_of(first)) & set(rows_of(second))
    assert not [link for link in second.links if "before=" in link]


async def test_an_entry_shows_all_it_holds_and_what_was_refused_beside_it(desk: DeskUnderTest) -> None:
    case = await act(desk, "ben", "propose", resolution="captured", evidence="seen at 02:50", before="version 4")
    await act(desk, "ben", "refused", case, minutes=-5, action="propose", code="same_person")
    await act(desk, "ben", "refused", case, minutes=-90, action="propose", code="long ago")
    await act(desk, "ben", "refused", action="propose", code="elsewhere")
    page = await opened(desk, "/activity/1")
    for words in ("seen at 02:50", "version 4", "at the desk", "refused: same person"):
        assert words in page.text
    assert "long ago" not in page.text
    assert "elsewhere" not in page.text
    assert (await opened(desk, "/activity/99")).status == 404
    assert (await opened(desk, "/activity/nonsense")).status == 404


async def test_hostile_texts_stay_texts(desk: DeskUnderTest) -> None:
    await act(desk, HOSTILE, "note", reason=HOSTILE, note=HOSTILE, about=HOSTILE)
    for address in ("/activity", "/activity/1"):
        page = await opened(desk, address)
        assert page.status == 200
        assert "<script>alert" not in page.html
        assert "\u202e" not in page.html
        assert "\x1b" not in page.html


# -- the chain ---------------------------------------------------------------------------------------------------------------------------


async def test_nothing_is_whole_before_it_was_checked(desk: DeskUnderTest) -> None:
    page = await opened(desk)
    assert "The log is not checked" in page.text
    assert "It never was" in page.text


async def test_somebody_has_the_log_checked_and_reads_that_it_is_whole(desk: DeskUnderTest) -> None:
    browser = await viewer(desk)
    page = await browser.submit(await browser.open("/activity"), "/activity/check")
    assert "It is being checked." in page.text
    assert "vera had the log checked" in page.text
    await looked(desk)
    page = await browser.open("/activity")
    assert "The log is whole" in page.text
    assert "2 entries" in page.text
    assert "None is under a seal yet" in page.text


async def test_a_check_that_is_long_ago_proves_nothing(desk: DeskUnderTest) -> None:
    browser = await viewer(desk)
    await looked(desk)
    desk.clock.forward(hours=4)
    browser = await desk.browser("vera")
    page = await browser.open("/activity")
    assert "The log is not checked" in page.text
    assert "Not since 02:14:07" in page.text.replace("28 Nov, ", "")


async def test_a_broken_log_says_at_which_entry_and_in_what(desk: DeskUnderTest, environment: Environment) -> None:
    browser = await viewer(desk)
    for _ in range(3):
        await act(desk, "ann", "ask")
    url = environment.databases["staff"]
    async with unguarded(url, "journal"):
        await execute(url, "UPDATE journal SET who = 'eve' WHERE position = 2")
    await looked(desk)
    for address in ("/activity", "/activity/2"):
        page = await browser.open(address)
        assert "The log is broken at entry 2" in page.text
        assert "who acted, or what the entry says, was changed" in page.text


# -- the log as a file -------------------------------------------------------------------------------------------------------------------


async def test_the_log_as_a_table_is_an_entry_itself_and_holds_no_formula(desk: DeskUnderTest) -> None:
    subject = await act(desk, "ann", "note", reason="=HYPERLINK(1)", note="a,b\n\u202e")
    browser = await viewer(desk)
    answer = await browser.client.get("/activity/download?kind=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="remit-log-2026-11-28.csv"'
    first, second = csv.DictReader(io.StringIO(answer.text))
    assert (first["entry"], first["who"], first["reason"], first["subject"]) == (
        "1",
        "ann",
        "'=HYPERLINK(1)",
        str(subject),
    )
    assert "\u202e" not in first["details"]
    assert second["action"] == "sign_in"
    assert "vera downloaded the log" in (await browser.open("/activity")).text


async def test_the_log_as_json_lines_takes_the_filter(desk: DeskUnderTest) -> None:
    for number in range(3):
        await act(desk, "ann" if number else "ben", "ask", n=number)
    browser = await viewer(desk)
    answer = await browser.client.get("/activity/download?kind=jsonl&who=ann")
    assert [json.loads(line)["details"] for line in answer.text.splitlines()] == [{"n": 1}, {"n": 2}]
    (noted,) = (
        await (await desk.token("auditor", Role.VIEWER)).get("/api/v1/activity", params={"action": "export"})
    ).json()["entries"]
    assert ["Kind", "jsonl"] in noted["facts"]
    assert ["Who", "ann"] in noted["facts"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", " =1", "\t=1", "\r=1", "|x", "%x"])
def test_a_cell_is_never_a_formula(text: str) -> None:
    shown = cell(text)
    assert shown[0] not in "=+-@|%\t\r"
    assert shown.lstrip(" ")[0] not in "=+-@|%\t\r"


async def test_what_people_do_with_a_replay_is_told_in_words_beside_its_number(
    desk: DeskUnderTest, environment: Environment
) -> None:
    run = uuid4()
    await execute(
        environment.databases["staff"],
        """INSERT INTO replay_runs (no, id, state, step, title, filter, bins, made_by, made_at, rate, total)
            VALUES (7, $1, 'done', 'rest', 'A group', '{}', '[]', 'ann.replayer', now(), 10, 1)""",
        run,
    )
    for did in RunAct:
        await act(desk, "ann.replayer", did.value, run)
    page = await opened(desk)
    assert page.links.count("/replays/7") == len(RunAct)
    assert "ann.replayer paused a replay R-7" in page.text
    assert "ann.replayer run " not in page.text, "no act is told by its own name"
