"""What nobody types in good faith: zero bytes, numbers beyond all, names with slashes. Each is answered, and none is an error of ours."""

from datetime import UTC, datetime

import pytest

from services.staff import story_store
from services.staff.desk import security
from services.staff.heard import hear
from services.staff.people import Role
from tests.support import heard_messages
from tests.support.desk_browser import DeskUnderTest


@pytest.mark.parametrize(
    "address",
    [
        "/find?q=%00",
        "/invoices/a%00b",
        "/activity?who=%00",
        "/activity?about=%00",
        "/dead-letters?queue=%00",
        "/dead-letters?words=%00",
        "/replays/99999999999999999999",
        f"/replays/{'9' * 5_000}",
    ],
)
async def test_what_no_database_takes_is_no_page(desk: DeskUnderTest, address: str) -> None:
    browser = await desk.browser("ann", *Role)
    assert (await browser.open(address)).status == 404
    assert (await browser.client.get(f"/api/v1{address}")).status_code in (404, 422)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
async def test_a_day_at_the_end_of_time_is_a_mistake(desk: DeskUnderTest, day: str) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    assert (await browser.open(f"/find?amount=1&currency=EUR&day={day}")).status == 422


async def test_a_zero_byte_in_a_form_is_shown_as_such(desk: DeskUnderTest) -> None:
    browser = await desk.browser("ann", *Role)
    page = await browser.open("/people")
    page = await browser.submit(page, "/people", name="be\0n", password="a long password")
    assert "A name has letters, digits" in page.text
    nobody = await desk.browser()
    assert (await nobody.sign_in("an\0n", "wrong\0")).status == 401


async def test_a_zero_byte_in_the_name_of_a_field_is_no_error_when_the_session_has_ended(desk: DeskUnderTest) -> None:
    """What was typed is kept for the session that has ended, and the database takes no such text."""
    browser = await desk.browser("ann", *Role)
    key = (await browser.open("/people")).form("/people").fields["form_key"][0]
    desk.clock.forward(minutes=31)
    late = await browser.post("/people", {"form_key": key, "once": str(desk.desk.ids()), "na\0me": "be\0n"})
    assert (late.status, "You were signed out after 30 minutes." in late.text) == (401, True)


@pytest.mark.parametrize("address", ["/dead-letters/", "/sign-in/", "/contract/", "/api/v1/dead-letters/"])
async def test_nobody_is_led_to_the_host_that_a_request_names(desk: DeskUnderTest, address: str) -> None:
    for browser in (await desk.browser("ann", *Role), await desk.browser()):
        answer = await browser.client.get(address, headers={"host": "evil.example"}, follow_redirects=False)
        assert "evil.example" not in str(answer.headers)


async def test_to_sign_in_takes_the_cookie_of_the_form(desk: DeskUnderTest) -> None:
    """Otherwise another site could sign somebody in as somebody else: it knows the key of no cookie at all."""
    nobody = await desk.browser()
    sent = {"username": "ann", "password": "wrong", "form_key": security.form_key("")}
    page = await nobody.post("/sign-in", sent)
    assert (page.status, "This form is from another page" in page.text) == (403, True)


@pytest.mark.parametrize("invoice_id", ["INV/2026/0001", "#1001", "-1", "a&b", "a?b=c", "a%2Fb", "/a", "a b+c"])
async def test_an_invoice_is_found_and_told_whatever_its_name(
    desk: DeskUnderTest, invoice_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.clock.now = datetime.now(tz=UTC)
    monkeypatch.setitem(heard_messages.ABOUT, "invoice_id", invoice_id)
    monkeypatch.setattr(heard_messages, "INVOICE", invoice_id)
    async with desk.desk.database.connection() as connection:
        await story_store.save(connection, hear(heard_messages.life_of_an_invoice(desk.clock.now)))
    browser = await desk.browser("ann", Role.VIEWER)
    found = await browser.client.get("/find", params={"q": invoice_id})
    assert found.status_code == 200
    assert found.url.path.startswith("/invoices/")
    page = await browser.open(f"/payments/{heard_messages.PAYMENT}")
    assert page.status == 200
    assert invoice_id in page.text
    download = next(link for link in page.links if link.startswith("/api/"))
    assert (await browser.client.get(download)).json()["invoice_id"] == invoice_id
