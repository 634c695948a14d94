"""The pages of people and of one's own settings."""

import pytest

from services.staff.desk.passwords import hashed
from services.staff.people import Role
from tests.support.desk_browser import DeskUnderTest

PASSWORD = "correct horse battery"


async def test_an_admin_lets_somebody_in_and_out_again(desk: DeskUnderTest) -> None:
    admin = await desk.browser("cleo.admin", Role.ADMIN)
    page = await admin.submit(
        await admin.open("/people"), "/people", name="ann", password=PASSWORD, roles=["resolver", "replayer"]
    )
    assert "ann can sign in now." in page.text
    ann = await desk.browser()
    assert (await ann.sign_in("ann", PASSWORD)).address != "/sign-in"
    people = await admin.open("/people")
    people = await admin.submit(people, "/people/ann/roles", roles=["viewer"])
    assert "ann is viewer now." in people.text
    assert "Viewer" in (await ann.open("/words")).text
    await admin.submit(people, "/people/ann/active")
    assert (await ann.open("/words")).address.startswith("/sign-in")
    assert (await ann.sign_in("ann", PASSWORD)).status == 401
    async with desk.desk.database.connection() as connection:
        rows = await connection.fetch("SELECT who, action, details->>'code' AS code FROM journal ORDER BY position")
    assert [(row["who"], row["action"], row["code"]) for row in rows][1:] == [
        ("cleo.admin", "add_person", None),
        ("ann", "sign_in", None),
        ("cleo.admin", "set_roles", None),
        ("cleo.admin", "set_active", None),
        ("ann", "refused", "inactive"),
    ]


async def test_settings_say_what_holds_for_everybody(desk: DeskUnderTest) -> None:
    page = await (await desk.browser("ann", Role.VIEWER)).open("/settings")
    assert "A payment is stuck 1 min after it was asked for, without an outcome" in page.text
    assert "Too old to charge 1 d after it was asked for" in page.text


async def test_only_admins_see_people(desk: DeskUnderTest) -> None:
    viewer = await desk.browser("vic", Role.VIEWER, Role.RESOLVER, Role.REPLAYER)
    page = await viewer.open("/people")
    assert page.status == 403
    assert "Your role is replayer, resolver, viewer: this takes an admin." in page.text
    assert 'href="/people"' not in page.html


@pytest.mark.parametrize(
    ("name", "password", "sentence"),
    [
        ("", PASSWORD, "Name: fill it in."),
        ("a b", PASSWORD, "A name has letters, digits"),
        ("cleo.ADMIN", PASSWORD, "is the name of another person or program."),
        ("ann", "a$b&c", "A password has at least 12 characters."),
        ("ann", "aaaaaaaaaaaaaaa", "This password is too easy to guess."),
        ("ann", "", "Password: fill it in."),
    ],
)
async def test_mistakes_with_a_new_person(desk: DeskUnderTest, name: str, password: str, sentence: str) -> None:
    admin = await desk.browser("cleo.admin", Role.ADMIN)
    page = await admin.submit(await admin.open("/people"), "/people", name=name, password=password)
    assert page.status in (409, 422)
    assert sentence in page.text
    assert page.form("/people").fields["name"] == [name]
    assert not password or password not in page.html


async def test_a_token_is_shown_once_and_can_be_revoked(desk: DeskUnderTest) -> None:
    admin = await desk.browser("cleo.admin", Role.ADMIN)
    drawn = await admin.open("/people")
    page = await admin.submit(drawn, "/tokens", name="reports", roles="viewer")
    assert page.status == 200
    secret = next(word for word in page.text.split() if word.startswith("remit_"))
    program = await desk.token("other", Role.VIEWER)
    program.headers["authorization"] = f"Bearer {secret}"
    assert (await program.get("/api/v1/words")).status_code == 200
    again = await admin.submit(drawn, "/tokens", name="reports", roles="viewer")
    assert secret not in again.html
    await admin.submit(again, "/tokens/reports/revoke")
    assert (await program.get("/api/v1/words")).status_code == 401
    assert (await program.get("/api/v1/people")).status_code == 401


async def test_a_token_ends(desk: DeskUnderTest) -> None:
    program = await desk.token("reports", Role.VIEWER)
    desk.clock.forward(hours=23, minutes=59)
    assert (await program.get("/api/v1/words")).status_code == 200
    desk.clock.forward(minutes=1)
    assert (await program.get("/api/v1/words")).status_code == 401


async def test_settings_are_kept_for_a_person(desk: DeskUnderTest) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    page = await browser.submit(
        await browser.open("/settings"), "/settings", zone="Europe/Berlin", colours="dark", undo_s=60, keys=[]
    )
    assert "Times: Berlin, UTC+1" in page.text
    assert 'data-theme="dark"' in page.html
    assert 'data-keys="off"' in page.html
    again = (await browser.open("/settings")).form("/settings").fields
    assert (again["zone"], again["undo_s"], again.get("keys")) == (["Europe/Berlin"], ["60"], None)


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../../etc/passwd", "/etc/localtime", "x" * 101, "\x00"])
async def test_a_zone_that_there_is_not_is_refused(desk: DeskUnderTest, zone: str) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    page = await browser.submit(await browser.open("/settings"), "/settings", zone=zone)
    assert page.status == 422
    assert "Time zone:" in page.text


@pytest.mark.parametrize(
    ("cookie", "shown"), [("Europe/Berlin", "Berlin, UTC+1"), ("nonsense", "UTC"), ("%2e%2e", "UTC")]
)
async def test_the_zone_is_first_that_of_the_browser(desk: DeskUnderTest, cookie: str, shown: str) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    browser.client.cookies.set("remit-zone", cookie)
    assert f"Times: {shown} " in (await browser.open("/words")).text


async def test_somebody_changes_their_own_password(desk: DeskUnderTest) -> None:
    await desk.account("ann", Role.VIEWER, password=hashed(PASSWORD))
    browser = await desk.browser()
    await browser.sign_in("ann", PASSWORD)
    drawn = await browser.open("/settings")
    wrong = await browser.submit(drawn, "/settings/password", password_now="wrong", password="another good one")
    assert (wrong.status, "This is not your password now." in wrong.text) == (422, True)
    assert "another good one" not in wrong.html
    await browser.submit(drawn, "/settings/password", password_now=PASSWORD, password="another good one")
    assert (await browser.open("/words")).address.startswith("/sign-in")
    assert (await browser.sign_in("ann", "another good one")).address != "/sign-in"


async def test_somebody_signs_out_everywhere(desk: DeskUnderTest) -> None:
    one, other = await desk.browser("ann", Role.VIEWER), await desk.browser("ann")
    page = await one.open("/settings")
    assert page.text.count("Another browser") == 1
    await one.submit(page, "/sign-out", everywhere="yes")
    assert (await other.open("/words")).address.startswith("/sign-in")


async def test_a_form_that_was_sent_too_late_is_kept_for_its_own_person(desk: DeskUnderTest) -> None:
    await desk.account("cleo.admin", Role.ADMIN, password=hashed(PASSWORD))
    await desk.account("dora", Role.ADMIN, password=hashed(PASSWORD))
    for name in ("dora", "cleo.admin"):
        browser = await desk.browser("cleo.admin")
        drawn = await browser.open("/people")
        desk.clock.forward(minutes=31)
        asked = await browser.submit(drawn, "/people", name="new.person", password=PASSWORD, roles=["viewer"])
        assert asked.status == 401
        assert "You were signed out after 30 minutes. Sign in; what you typed is kept." in asked.text
        page = await browser.submit(asked, "/sign-in", username=name, password=PASSWORD)
        kept = page if page.address == "/people" else await browser.open("/people")
        form = kept.form("/people").fields
        assert form["name"] == (["new.person"] if name == "cleo.admin" else [""])
        if name == "cleo.admin":
            assert page.address == "/people"
            assert "What you typed is back in its form" in kept.text
            assert form["roles"] == ["viewer"]
            assert PASSWORD not in kept.html
            assert (await browser.open("/people")).form("/people").fields["name"] == [""]
        assert "new.person" not in (await browser.open("/api/v1/people")).html
