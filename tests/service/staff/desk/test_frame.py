"""The frame of the desk: what every page has, who gets one, and what becomes of errors."""

import re
from pathlib import Path

import pytest

from services.staff.people import Role
from shared.persistence.database import Database
from tests.support.desk_browser import DeskUnderTest, open_desk
from tests.support.environment import Environment


async def test_a_page_stands_in_its_frame(desk: DeskUnderTest) -> None:
    browser = await desk.browser("ann.resolver", Role.RESOLVER, Role.REPLAYER)
    page = await browser.open("/words")
    assert page.status == 200
    assert "money in doubt" in page.text
    assert "ann.resolver" in page.text
    assert "Times: UTC" in page.text
    assert "as of 28 Nov" not in page.text
    assert "as of 02:14:07" in page.text
    assert 'href="/words" aria-current="page"' in page.html
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert len(page.ids) == len(set(page.ids))


async def test_who_is_not_signed_in_is_sent_to_do_that(desk: DeskUnderTest) -> None:
    page = await (await desk.browser()).open("/words")
    assert page.address == "/sign-in?page=%2Fwords"
    assert "money in doubt" not in page.text


async def test_the_same_as_json(desk: DeskUnderTest) -> None:
    program = await desk.token("reports", Role.VIEWER)
    answer = await program.get("/api/v1/words")
    assert answer.status_code == 200
    assert answer.json()["words"][1]["shown"] == "case"


@pytest.mark.parametrize(("path", "status"), [("/no-such-page", 404), ("/sign-out", 405)])
async def test_an_address_that_is_no_page_says_so_in_the_frame(desk: DeskUnderTest, path: str, status: int) -> None:
    page = await (await desk.browser("ann", Role.VIEWER)).open(path)
    assert page.status == status
    assert "What you can do" in page.text
    assert "Overview" in page.text


async def test_while_the_database_is_away_a_page_says_what_to_do(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    program = await desk.token("reports", Role.VIEWER)

    def away(_: Database) -> None:
        raise ConnectionRefusedError(111, "host=secret.example password=hunter2")

    with monkeypatch.context() as broken:
        broken.setattr(Database, "connection", away)
        page = await browser.open("/words")
        problem = await program.get("/api/v1/words")
    assert page.status == 503
    assert "The staff database does not answer" in page.text
    assert re.search(r"REQ-[2-9A-Z]{6}", page.text)
    assert "remit payments in-doubt" in page.text
    assert "hunter2" not in page.html
    assert (problem.status_code, problem.json()["code"]) == (503, "away")
    assert (await browser.open("/words")).status == 200


async def test_an_error_says_whom_to_call_to_those_who_work_here(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "contacts.json"
    file.write_text('[{"name": "On call: cleo", "number": "+49 30 23125 147"}, {"name": "Head", "number": "+49 30 1"}]')
    async with open_desk(environment.databases["staff"], contacts_file=str(file)) as desk:
        signed_in, stranger = await desk.browser("ann", Role.VIEWER), await desk.browser()

        def away(_: Database) -> None:
            raise ConnectionRefusedError(111, "away")

        monkeypatch.setattr(Database, "connection", away)
        assert "call On call: cleo, +49 30 23125 147, and say REQ-" in (await signed_in.open("/words")).text
        told = await stranger.open("/sign-in")
        assert "+49" not in told.html
        monkeypatch.undo()


async def test_an_error_of_ours_has_a_number_and_shows_nothing_else(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await desk.browser("ann", Role.VIEWER)

    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("services.staff.desk.routing.Parameters.bind", broken)
    page = await browser.open("/words")
    assert page.status == 500
    assert "secret detail" not in page.html
    assert "REQ-" in page.text
    assert "done whole or not at all" in page.text
    assert "ann" in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/words?%00=%ff",
        "/%00",
        "/words?q=" + "x" * 5000,
        "/%e2%80%ae",
        "/words/",
        "//words",
        "/words?done=x",
        "/static/x",
    ],
)
async def test_odd_addresses_break_nothing(desk: DeskUnderTest, path: str) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    answer = await browser.client.get(path)
    assert answer.status_code in (200, 303, 307, 404)
    assert "\u202e" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": "remit-session=" + "x" * 4000},
        {"cookie": "remit-session=\x7f;;=;"},
        {"authorization": "Bearer"},
        {"authorization": "Basic eDp5"},
        {"authorization": "Bearer " + "x" * 4000},
        {"sec-fetch-site": "<script>", "origin": "http://["},
        {"accept": "application/json"},
    ],
)
async def test_odd_headers_let_nobody_in(desk: DeskUnderTest, headers: dict[str, str]) -> None:
    browser = await desk.browser()
    page = await browser.client.get("/words", headers=headers)
    assert page.status_code in (200, 401)
    assert "money in doubt" not in page.text
    form = await browser.client.post("/sign-in", data={"username": "a", "password": "b"}, headers=headers)
    assert form.status_code in (401, 403)


async def test_head_is_answered_as_get_without_a_body(desk: DeskUnderTest) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    answer = await browser.client.head("/words")
    assert answer.status_code == 200


async def test_the_stylesheet_is_kept_for_ever_under_its_version(desk: DeskUnderTest) -> None:
    page = await (await desk.browser()).open("/sign-in")
    (address,) = re.findall(r'href="(/static/[^"]+/desk\.css)"', page.html)
    answer = await (await desk.browser()).client.get(address)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_no_page_has_inline_style_or_script(desk: DeskUnderTest) -> None:
    admin = await desk.browser("cleo", *Role)
    for path in ("/words", "/people", "/settings", "/no-such-page"):
        html = (await admin.open(path)).html
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", html), path
        assert re.findall(r"<script[^>]*>", html) == [re.search(r'<script src="/static/[^"]+" defer>', html)[0]]  # type: ignore[index]


async def test_programs_find_the_api_described(desk: DeskUnderTest) -> None:
    nobody = await desk.browser()
    assert (await nobody.client.get("/api/v1/openapi.json")).status_code == 401
    answer = await (await desk.token("robot", Role.VIEWER)).get("/api/v1/openapi.json")
    described = answer.json()
    assert {"/api/v1/words", "/api/v1/people", "/api/v1/tokens"} <= set(described["paths"])
    assert "get" in described["paths"]["/api/v1/live"]
    assert "/api/v1/settings" not in described["paths"]
    assert "form_key" not in answer.text
