"""Acts of the desk, by form and by API: done once, refused with a sentence, and what was typed stays."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from services.staff import people_store
from services.staff.desk.once import result_of
from services.staff.desk.routing import ACTS_BURST, Act, Desk, Done, Refused, Room
from services.staff.desk.sessions import cookie_name, new_secret
from services.staff.people import Actor, Role
from services.staff.people_store import RequestRecord
from shared.ids import new_id
from shared.web.strangers import WRONG_BURST
from tests.support.desk_browser import DeskBrowser, DeskUnderTest, open_desk
from tests.support.environment import Environment

HOSTILE = "<script>alert(1)</script>\"'\u202e\x1b[2J{{7*7}}"


class NoteForm(Act):
    text: Annotated[str, Field(min_length=1, max_length=1000, title="Note", json_schema_extra={"missing": "Say it."})]
    version: int = 0
    id: tuple[UUID, ...] = ()


class SheetView(BaseModel):
    number: int
    notes: list[str]


class Sheet:
    """What the acts of the test do: notes on a numbered sheet."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Actor]] = []
        self.room = Room("test.sheets")
        self.hold: asyncio.Event | None = None
        page, act = self.room.page, self.room.act

        @page("/sheets/{number}", "_test_sheet.html")
        async def sheet(number: int, desk: Desk, viewer: Actor, until: int = 10) -> SheetView:
            if number > until:
                raise Refused("unknown", "There is no such sheet.", 404)
            return SheetView(number=number, notes=[text for text, _ in self.notes])

        @act("/sheets/{number}/notes", needs=Role.RESOLVER)
        async def note(number: int, form: NoteForm, desk: Desk, actor: Actor) -> Done:
            if self.hold is not None:
                await self.hold.wait()
            if form.text == "refuse":
                raise Refused("version_differs", "It changed while you wrote.", 409)
            if form.text == "wrong":
                raise Refused("card_data", "What you saw holds a card number: leave it out.", 422, field="text")
            self.notes.append((form.text, actor))
            return Done(text=f"Noted {form.text}", location=f"/sheets/{number}#notes", entry=form.once)


@pytest.fixture
async def sheet() -> Sheet:
    return Sheet()


@pytest.fixture
async def desk(environment: Environment, sheet: Sheet, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeskUnderTest]:
    template = """{% extends "base.html" %}{% import "pieces.html" as p with context %}{% set here = "cases" %}
        {% block title %}Sheet{% endblock %}{% block main %}{{ p.head("Sheet " ~ view.number) }}
        {% for note in view.notes %}<p>{{ note | theirs }}</p>{% endfor %}
        {% call p.act_form("/sheets/" ~ view.number ~ "/notes") %}{{ p.field("text", "Note", hint="One sentence.", lines=3) }}
        {{ p.hidden("version", 4) }}{{ p.button("Keep it", needs="resolver") }}{% endcall %}
        {% call p.act_form("/sheets/" ~ view.number ~ "/other") %}{{ p.field("text", "Other", id="other") }}{% endcall %}{% endblock %}"""
    from jinja2 import ChoiceLoader, DictLoader

    from services.staff.desk.frame import ENVIRONMENT

    loader = ChoiceLoader([DictLoader({"_test_sheet.html": template}), ENVIRONMENT.loader])  # type: ignore[list-item]
    monkeypatch.setattr(ENVIRONMENT, "loader", loader)
    async with open_desk(environment.databases["staff"], [sheet.room]) as opened:
        yield opened


ACT = "/sheets/7/notes"


async def resolver(desk: DeskUnderTest) -> DeskBrowser:
    return await desk.browser("ann.resolver", Role.RESOLVER)


async def test_an_act_leads_to_a_page_that_tells_what_was_done(desk: DeskUnderTest, sheet: Sheet) -> None:
    browser = await resolver(desk)
    page = await browser.submit(await browser.open("/sheets/7"), ACT, text="pi_1 is there\r\nsince noon ")
    assert page.status == 200
    assert page.address.startswith("/sheets/7?done=")
    assert [text for text, _ in sheet.notes] == ["pi_1 is there\nsince noon"]
    assert 'role="status"' in page.html
    assert "Noted pi_1 is there" in page.text
    assert sheet.notes[0][1].name == "ann.resolver"
    assert sheet.notes[0][1].request is not None


async def test_a_form_that_is_sent_twice_does_it_once(desk: DeskUnderTest, sheet: Sheet) -> None:
    browser = await resolver(desk)
    drawn = await browser.open("/sheets/7")
    sheet.hold = asyncio.Event()
    clicks = [asyncio.ensure_future(browser.submit(drawn, ACT, text="once")) for _ in range(3)]
    await asyncio.sleep(0)
    sheet.hold.set()
    pages = [*(await asyncio.gather(*clicks)), await browser.submit(drawn, ACT, text="once")]
    assert len(sheet.notes) == 1
    assert {page.address for page in pages} == {pages[0].address}
    assert all("Noted once" in page.text for page in pages)


async def test_of_two_processes_that_handle_one_form_the_first_ones_result_stays(desk: DeskUnderTest) -> None:
    once, at = new_id(), desk.clock()
    async with desk.desk.database.connection() as connection:
        for text in ("first", "second"):
            await people_store.keep_request(connection, RequestRecord(once, at, "eva", "/sheets/7", {"text": text}))
        kept = await people_store.request_of(connection, once)
    assert kept == RequestRecord(once, at, "eva", "/sheets/7", {"text": "first"})


async def test_what_came_of_a_form_is_told_to_whoever_sent_it(desk: DeskUnderTest) -> None:
    once, done = new_id(), Done(text="noted", location="/sheets/7")
    async with desk.desk.database.connection() as connection:
        record = RequestRecord(once, desk.clock(), "eva", "/sheets/7", done.model_dump(mode="json"))
        await people_store.keep_request(connection, record)
    assert await result_of(desk.desk, once, who="eva") == done
    assert await result_of(desk.desk, once, who="ann") is None


async def test_a_form_that_says_something_else_the_second_time_is_not_told_as_done(
    desk: DeskUnderTest, sheet: Sheet
) -> None:
    browser = await resolver(desk)
    drawn = await browser.open("/sheets/7")
    await browser.submit(drawn, ACT, text="one")
    other = await browser.submit(drawn, ACT, text="two")
    assert (other.status, [text for text, _ in sheet.notes]) == (409, ["one"])
    assert "This form was sent before, and said something else then" in other.text


async def test_a_form_of_somebody_else_is_no_form_of_mine(desk: DeskUnderTest, sheet: Sheet) -> None:
    ann, ben = await resolver(desk), await desk.browser("ben.resolver", Role.RESOLVER)
    of_ann, of_ben = await ann.open("/sheets/7"), await ben.open("/sheets/7")
    await ann.submit(of_ann, ACT, text="mine")
    refused = await ben.submit(of_ben, ACT, text="mine", once=of_ann.form(ACT).fields["once"][0])
    assert (refused.status, len(sheet.notes)) == (403, 1)
    assert "This form is from another page: open it again." in refused.text
    stolen = await ben.submit(of_ann, ACT, text="mine")
    assert (stolen.status, len(sheet.notes)) == (403, 1)


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    [
        ("", 422, "Say it."),
        ("x" * 1042, 422, "Note: longer than 1 000 characters (1 042)."),
        ("wrong", 422, "What you saw holds a card number: leave it out."),
    ],
)
async def test_a_mistake_stands_at_its_field_and_what_was_typed_stays(
    desk: DeskUnderTest, sheet: Sheet, text: str, status: int, sentence: str
) -> None:
    browser = await resolver(desk)
    page = await browser.submit(await browser.open("/sheets/7"), ACT, text=text)
    assert page.status == status
    assert not sheet.notes
    assert '<a href="#text">' in page.html
    assert page.text.count(sentence) == 2
    assert page.form(ACT).fields["text"] == [text]
    assert page.form("/sheets/7/other").fields["text"] == [""]
    assert "Not done: Sheet" in page.html
    again = await browser.submit(page, ACT, text="better")
    assert [note for note, _ in sheet.notes] == ["better"], again.text


async def test_a_refusal_shows_above_the_form(desk: DeskUnderTest, sheet: Sheet) -> None:
    browser = await resolver(desk)
    page = await browser.submit(await browser.open("/sheets/7"), ACT, text="refuse")
    assert (page.status, sheet.notes) == (409, [])
    assert "It changed while you wrote." in page.text
    assert page.form(ACT).fields["text"] == ["refuse"]


async def test_without_the_role_the_button_is_not_available_and_the_act_refused_and_noted(
    desk: DeskUnderTest, sheet: Sheet
) -> None:
    await desk.account("cleo.admin", Role.ADMIN)
    browser = await desk.browser("vic", Role.VIEWER)
    drawn = await browser.open("/sheets/7")
    sentence = "Your role is viewer: deciding takes a resolver. Admins: cleo.admin."
    assert sentence in drawn.text
    assert drawn.form(ACT).buttons == []
    page = await browser.submit(drawn, ACT, text="anyway")
    assert (page.status, sheet.notes) == (403, [])
    assert sentence in page.text
    async with desk.desk.database.connection() as connection:
        (entry,) = await connection.fetch("SELECT who, details FROM journal WHERE action = 'refused'")
    assert entry["who"] == "vic"
    assert entry["details"]["code"] == "not_allowed"


async def refusals(desk: DeskUnderTest) -> list[tuple[str, str]]:
    """Who was refused, and why, as the journal has it. It has nothing of what was written."""
    async with desk.desk.database.connection() as connection:
        entries = await connection.fetch("SELECT who, details FROM journal WHERE action = 'refused' ORDER BY position")
    assert all(set(entry["details"]) <= {"action", "code", "via"} for entry in entries)
    assert {entry["details"]["action"] for entry in entries} <= {"/sheets/{number}/notes"}
    return [(entry["who"], entry["details"]["code"]) for entry in entries]


@pytest.mark.parametrize(
    ("text", "code"), [("", "invalid"), ("x" * 1_001, "invalid"), ("wrong", "card_data"), ("refuse", "version_differs")]
)
async def test_whatever_a_known_person_is_refused_is_noted_once(desk: DeskUnderTest, text: str, code: str) -> None:
    browser = await resolver(desk)
    await browser.submit(await browser.open("/sheets/7"), ACT, text=text)
    assert await refusals(desk) == [("ann.resolver", code)]


async def test_nobody_fills_the_journal_with_refusals(desk: DeskUnderTest) -> None:
    """What comes from another site, too often, or from somebody who is not signed in, is refused and not noted."""
    browser, program = await resolver(desk), await desk.token("eager", Role.RESOLVER)
    drawn = await browser.open("/sheets/7")
    await browser.submit(drawn, ACT, text="", form_key="guess")
    await browser.post(ACT, {**drawn.form(ACT).fields, "text": ""}, origin="https://evil.example")
    for _ in range(ACTS_BURST + 5):
        await program.post(f"/api/v1{ACT}", json={"once": str(new_id()), "text": "refuse"})
    assert await refusals(desk) == [("eager", "version_differs")] * ACTS_BURST
    desk.clock.forward(minutes=31)
    assert (await browser.submit(drawn, ACT, text="")).status == 401
    assert len(await refusals(desk)) == ACTS_BURST


async def test_the_same_by_a_program(desk: DeskUnderTest, sheet: Sheet) -> None:
    program = await desk.token("billing", Role.RESOLVER)
    once = str(new_id())
    for _ in range(2):
        answer = await program.post(f"/api/v1{ACT}", json={"once": once, "text": "by program"})
        assert answer.status_code == 200
        assert answer.json() | {"undo": None} == answer.json()
        assert answer.json()["entry"] == once
    assert [(text, actor.name, actor.is_program) for text, actor in sheet.notes] == [("by program", "billing", True)]
    for body, code, status in [
        ({"once": str(new_id()), "text": "refuse"}, "version_differs", 409),
        ({"once": str(new_id()), "text": "x", "unknown": 1}, "invalid", 422),
        ({"text": "x"}, "invalid", 422),
    ]:
        problem = await program.post(f"/api/v1{ACT}", json=body)
        assert (problem.status_code, problem.json()["code"]) == (status, code)
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.json()["sentence"]
    assert len(sheet.notes) == 1


async def test_a_program_with_a_wrong_token_is_told_so(desk: DeskUnderTest) -> None:
    program = await desk.token("billing", Role.RESOLVER)
    program.headers["authorization"] = "Bearer remit_wrong"
    answer = await program.get("/api/v1/sheets/7")
    assert (answer.status_code, answer.json()["code"]) == (401, "signed_out")


async def test_whoever_sends_many_wrong_tokens_waits_and_holds_up_nobody(desk: DeskUnderTest) -> None:
    right, wrong = await desk.token("billing", Role.RESOLVER), await desk.token("other", Role.RESOLVER)
    wrong.headers["authorization"] = "Bearer remit_wrong"
    statuses = [(await wrong.get("/api/v1/sheets/7")).status_code for _ in range(WRONG_BURST)]
    one_too_many = await wrong.get("/api/v1/sheets/7")
    assert set(statuses) == {401}
    assert (one_too_many.status_code, one_too_many.json()["code"]) == (429, "too_often")
    assert int(one_too_many.headers["retry-after"]) > 0
    assert (await right.get("/api/v1/sheets/7")).status_code == 200


async def test_whoever_sends_many_wrong_cookies_may_still_sign_in(desk: DeskUnderTest) -> None:
    name = cookie_name(desk.desk.settings)
    browser = await desk.browser()
    for _ in range(WRONG_BURST):
        browser.client.cookies.set(name, new_secret())
        await browser.open("/sheets/7")
    browser.client.cookies.set(name, new_secret())
    assert (await browser.open("/sheets/7")).status == 429
    assert (await browser.open("/sign-in")).status == 200


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}]
)
async def test_a_form_of_another_site_does_nothing(desk: DeskUnderTest, sheet: Sheet, headers: dict[str, str]) -> None:
    browser = await resolver(desk)
    drawn = await browser.open("/sheets/7")
    page = await browser.post(ACT, {**drawn.form(ACT).fields, "text": "forged"}, **headers)
    assert (page.status, sheet.notes) == (403, [])


async def test_a_form_without_the_hidden_value_does_nothing(desk: DeskUnderTest, sheet: Sheet) -> None:
    browser = await resolver(desk)
    drawn = await browser.open("/sheets/7")
    page = await browser.submit(drawn, ACT, text="forged", form_key="guess")
    assert (page.status, sheet.notes) == (403, [])


async def test_too_many_acts_are_slowed_down(desk: DeskUnderTest, sheet: Sheet) -> None:
    program = await desk.token("eager", Role.RESOLVER)
    answers = [await program.post(f"/api/v1{ACT}", json={"once": str(new_id()), "text": "more"}) for _ in range(61)]
    assert [answer.status_code for answer in answers] == [200] * 60 + [429]
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].json()["sentence"] == "Too many tries. Again in 1 seconds."
    desk.clock.forward(seconds=1)
    assert (await program.post(f"/api/v1{ACT}", json={"once": str(new_id()), "text": "m"})).status_code == 200


async def test_hostile_texts_are_shown_and_do_nothing(desk: DeskUnderTest) -> None:
    browser = await resolver(desk)
    page = await browser.submit(await browser.open("/sheets/7"), ACT, text=HOSTILE)
    assert "<script>alert" not in page.html
    assert "\u202e" not in page.html
    assert "\x1b" not in page.html
    assert r"\u202e" in page.text
    assert "{{7*7}}" in page.text
    wrong = await browser.submit(page, ACT, text="refuse", version=HOSTILE)
    assert wrong.status == 422
    assert "<script>alert" not in wrong.html


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(desk: DeskUnderTest, sheet: Sheet) -> None:
    browser = await resolver(desk)
    drawn = await browser.open("/sheets/7")
    page = await browser.submit(drawn, ACT, text="x" * (1024 * 1024 + 1))
    assert (page.status, sheet.notes) == (413, [])
    assert "at most 1 MiB" in page.text


@pytest.mark.parametrize(("address", "status"), [("/sheets/x", 404), ("/sheets/99", 404), ("/sheets/7?until=x", 422)])
async def test_an_address_that_is_not_right_says_so(desk: DeskUnderTest, address: str, status: int) -> None:
    page = await (await resolver(desk)).open(address)
    assert page.status == status
    program = await desk.token("reports", Role.VIEWER)
    answer = await program.get(f"/api/v1{address}")
    assert answer.status_code == status
    assert answer.json()["sentence"]
