"""Signing in and out: who gets in, for how long, and what stays of a form that was sent too late."""

from uuid import uuid4

import pytest

from services.staff.desk.passwords import hashed
from services.staff.people import Role
from tests.support.desk_browser import DeskUnderTest, open_desk
from tests.support.environment import Environment

PASSWORD = "correct horse battery"
HASH = hashed(PASSWORD)


async def test_somebody_signs_in_and_out(desk: DeskUnderTest) -> None:
    await desk.account("ann.resolver", Role.RESOLVER, password=HASH)
    browser = await desk.browser()
    asked = await browser.open("/words")
    page = await browser.submit(asked, "/sign-in", username="Ann.Resolver", password=PASSWORD)
    assert page.address == "/words"
    assert "ann.resolver" in page.text
    away = await browser.submit(page, "/sign-out")
    assert away.address == "/sign-in"
    assert (await browser.open("/words")).address.startswith("/sign-in")
    async with desk.desk.database.connection() as connection:
        actions = await connection.fetch("SELECT who, action, details FROM journal ORDER BY position")
    assert [(row["who"], row["action"]) for row in actions] == [
        ("ann.resolver", "sign_in"),
        ("ann.resolver", "sign_out"),
    ]
    assert actions[0]["details"] == {"how": "password", "via": "desk"}


async def test_no_other_site_signs_somebody_in_or_out(desk: DeskUnderTest) -> None:
    """Another site can send a form, and knows neither what the browser was given nor how to say that it is this site."""
    await desk.account("ann.resolver", Role.RESOLVER, password=HASH)
    browser = await desk.browser()
    asked = await browser.open("/sign-in")
    entering = {**asked.form("/sign-in").fields, "username": "ann.resolver", "password": PASSWORD}
    elsewhere = await browser.client.post("/sign-in", data=entering, headers={"origin": "https://evil.example.com"})
    assert elsewhere.status_code == 403
    page = await browser.submit(asked, "/sign-in", username="ann.resolver", password=PASSWORD)
    assert (await browser.post("/sign-out", {"form_key": "guessed"})).status == 403
    assert (await browser.open("/words")).address == "/words"
    assert (await browser.submit(page, "/sign-out")).address == "/sign-in"


@pytest.mark.parametrize("name", ["ann.resolver", "nobody", "", "<script>"])
async def test_a_wrong_password_does_not_tell_what_is_wrong(desk: DeskUnderTest, name: str) -> None:
    await desk.account("ann.resolver", Role.RESOLVER, password=HASH)
    page = await (await desk.browser()).sign_in(name, "wrong")
    assert page.status == 401
    assert "Name or password is wrong." in page.text
    assert "wrong" not in page.form("/sign-in").fields.get("password", [])
    async with desk.desk.database.connection() as connection:
        noted = await connection.fetch("SELECT who FROM journal WHERE action = 'refused'")
    assert [row["who"] for row in noted] == (["ann.resolver"] if name == "ann.resolver" else [])


async def test_guesses_are_slowed_down(desk: DeskUnderTest) -> None:
    await desk.account("ann.resolver", Role.RESOLVER, password=HASH)
    browser = await desk.browser()
    pages = [await browser.sign_in("ann.resolver", f"guess {number}") for number in range(6)]
    assert [page.status for page in pages] == [401] * 5 + [429]
    assert "Too many tries. Again in 12 seconds." in pages[-1].text
    assert pages[-1].headers["retry-after"] == "12"
    assert (await browser.sign_in("ann.resolver", PASSWORD)).status == 429
    elsewhere = await desk.browser(network="192.0.2.7")
    assert (await elsewhere.sign_in("ann.resolver", PASSWORD)).status == 200, "a stranger keeps nobody out"
    desk.clock.forward(seconds=12)
    assert (await browser.sign_in("ann.resolver", PASSWORD)).status != 429


async def test_a_name_is_not_guessed_from_many_networks(desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(*_: object) -> bool:
        return False

    monkeypatch.setattr("services.staff.desk.passwords.PasswordChecker.is_right", wrong)
    statuses = [
        (await (await desk.browser(network=f"192.0.2.{number}")).sign_in("ann", "x")).status for number in range(51)
    ]
    assert statuses == [401] * 50 + [429]


async def test_whoever_finds_a_browser_open_guesses_no_faster(desk: DeskUnderTest) -> None:
    await desk.account("ann", Role.VIEWER, password=HASH)
    browser = await desk.browser("ann")
    page = await browser.open("/settings")
    guesses = [{"password_now": f"guess {number}", "password": PASSWORD} for number in range(6)]
    answers = [await browser.submit(page, "/settings/password", once=uuid4(), **guess) for guess in guesses]
    assert [answer.status for answer in answers] == [422] * 5 + [429]
    assert answers[-1].headers["retry-after"] == "12"
    outside = await desk.browser()
    assert (await outside.sign_in("ann", PASSWORD)).status == 429, "it is the same name, and the same network"
    desk.clock.forward(seconds=12)
    changed = await browser.submit(page, "/settings/password", password_now=PASSWORD, password="another one, and long")
    assert "Sign in" in changed.text
    async with desk.desk.database.connection() as connection:
        noted = await connection.fetch("SELECT details FROM journal WHERE action = 'refused'")
    assert {(row["details"]["action"], row["details"]["code"]) for row in noted} == {
        ("/settings/password", "wrong_password")
    }


async def test_a_session_ends_after_half_an_hour_without_a_click(desk: DeskUnderTest) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    for _ in range(3):
        desk.clock.forward(minutes=29)
        assert (await browser.open("/words")).status == 200
    desk.clock.forward(minutes=30)
    assert (await browser.open("/words")).address.startswith("/sign-in")


async def test_a_session_ends_after_a_shift_whatever_one_does(desk: DeskUnderTest) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    for _ in range(12 * 60 // 29):
        desk.clock.forward(minutes=29)
        assert (await browser.open("/words")).address == "/words"
    desk.clock.forward(minutes=25)
    assert (await browser.open("/words")).address.startswith("/sign-in")


@pytest.mark.parametrize("page", ["//evil.example", "https://evil.example", "/\\evil.example", "/sign-in?page=/x"])
async def test_nobody_is_sent_to_another_site(desk: DeskUnderTest, page: str) -> None:
    browser = await desk.browser()
    asked = await browser.open(f"/sign-in?page={page}")
    assert asked.form("/sign-in").fields["page"] == ["/"]


async def test_the_cookie_is_for_this_host_and_no_script(environment: Environment) -> None:
    async with open_desk(environment.databases["staff"], url="https://desk.example.com") as desk:
        await desk.account("ann", Role.VIEWER, password=HASH)
        browser = await desk.browser()
        asked = await browser.open("/sign-in")
        assert "strict-transport-security" in asked.headers
        answer = await browser.client.post(
            "/sign-in",
            data={**asked.form("/sign-in").fields, "username": "ann", "password": PASSWORD},
            follow_redirects=False,
        )
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-remit-session=")
    assert {"HttpOnly", "Path=/", "SameSite=lax", "Secure"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
