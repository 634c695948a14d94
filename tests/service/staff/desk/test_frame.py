"""The frame of the desk: what every page has, who gets one, and what becomes of errors."""

import pytest

from services.staff.people import Role
from tests.support.desk_browser import DeskUnderTest


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
