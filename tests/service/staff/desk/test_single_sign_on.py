"""Signing in with OpenID Connect, at a provider that runs in this process."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from oidc_provider_mock import User, run_server_in_thread

from services.staff.actions import accounts
from services.staff.desk.single_sign_on import roles_in
from services.staff.people import Role, at_terminal
from shared.clock import system_clock
from tests.support.desk_browser import DeskBrowser, DeskUnderTest, SeenPage, open_desk, seen
from tests.support.environment import Environment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the provider warns of its own libraries

EVA = User(sub="1", claims={"preferred_username": "eva", "roles": ["resolver", "chef"]})
NOBODY = User(sub="2", claims={"email": "x@example.com"})
HOSTILE = User(sub="3", claims={"preferred_username": "<b>eva\u202e", "roles": "admin"})


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with run_server_in_thread(user_claims=[EVA, NOBODY, HOSTILE], require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
async def desk(environment: Environment, provider: str) -> AsyncIterator[DeskUnderTest]:
    settings: dict[str, Any] = {
        "provider": provider,
        "client_id": "remit-desk",
        "client_secret": "s",
        "provider_name": "Nordlicht",
    }
    async with open_desk(environment.databases["staff"], **settings) as opened:
        opened.clock.now = system_clock()  # the provider's tokens are of now
        yield opened


async def at_provider(browser: DeskBrowser, sub: str | None, page: str = "/words") -> str:
    """Follow the link, sign in at the provider, and return the address to which it sends the browser back."""
    asked = await browser.open(f"/sign-in?page={page}")
    assert "Continue with Nordlicht" in asked.text
    (link,) = [one for one in asked.links if one.startswith("/sign-in/with")]
    away = await browser.client.get(link, follow_redirects=False)
    assert away.status_code == 303
    sent = parse_qs(urlsplit(away.headers["location"]).query)
    assert sent["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= set(sent)
    form = {"action": "deny"} if sub is None else {"sub": sub}
    async with httpx.AsyncClient() as client:
        answer = await client.post(away.headers["location"], data=form, follow_redirects=False)
    address = str(answer.headers["location"])
    return (
        address if "state=" in address else f"{address}&state={sent['state'][0]}"
    )  # this provider forgets it in a refusal


async def back(browser: DeskBrowser, address: str) -> SeenPage:
    parts = urlsplit(address)
    return seen(await browser.client.get(f"{parts.path}?{parts.query}"))


async def test_somebody_signs_in_with_the_roles_of_the_claim(desk: DeskUnderTest) -> None:
    browser = await desk.browser()
    page = await back(browser, await at_provider(browser, "1"))
    assert page.address == "/words"
    assert "eva" in page.text
    assert "Resolver" in page.text
    async with desk.desk.database.connection() as connection:
        rows = await connection.fetch("SELECT who, action, details FROM journal ORDER BY position")
    assert [(row["who"], row["action"]) for row in rows] == [("eva", "add_person"), ("eva", "sign_in")]
    assert rows[0]["details"]["roles"] == ["resolver"]
    assert rows[1]["details"]["how"] == "single sign-on"


async def test_an_answer_is_taken_once_and_by_its_own_browser_only(desk: DeskUnderTest) -> None:
    browser, other = await desk.browser(), await desk.browser()
    address = await at_provider(browser, "1")
    await other.open("/sign-in")
    refused = await back(other, address)
    assert (refused.status, "begun elsewhere" in refused.text) == (403, True)
    assert (await back(browser, address)).address == "/words"
    assert (await back(await desk.browser(), address)).status == 403
    again = await back(browser, address)
    assert again.status == 403


async def test_an_answer_that_comes_too_late_is_refused(desk: DeskUnderTest) -> None:
    browser = await desk.browser()
    address = await at_provider(browser, "1")
    desk.clock.forward(minutes=11)
    assert (await back(browser, address)).status == 403


@pytest.mark.parametrize(
    ("sub", "sentence"),
    [
        (None, "Nordlicht did not let you in."),
        ("2", "It does not say your name."),
        ("3", "A name has letters, digits"),
    ],
)
async def test_who_is_not_let_in_reads_why(desk: DeskUnderTest, sub: str | None, sentence: str) -> None:
    browser = await desk.browser()
    page = await back(browser, await at_provider(browser, sub))
    assert page.status == 403
    assert sentence in page.text
    assert "<b>" not in page.html
    assert (await browser.open("/words")).address.startswith("/sign-in")


async def test_the_name_of_a_local_account_is_not_given_to_somebody_else(desk: DeskUnderTest) -> None:
    await desk.account("Eva", Role.RESOLVER)
    browser = await desk.browser()
    page = await back(browser, await at_provider(browser, "1"))
    assert page.status == 403
    assert "an admin has to tell you apart" in page.text


async def test_who_was_shut_out_comes_in_no_more(desk: DeskUnderTest) -> None:
    browser = await desk.browser()
    assert (await back(browser, await at_provider(browser, "1"))).address == "/words"
    assert (await accounts.set_active(desk.desk.database, "eva", active=False, who=at_terminal("operator"))).ok
    page = await back(browser, await at_provider(browser, "1"))
    assert (page.status, "An admin has shut this account out." in page.text) == (403, True)
    assert (await browser.open("/words")).address.startswith("/sign-in")


async def test_a_code_that_is_not_the_providers_is_refused(desk: DeskUnderTest) -> None:
    browser = await desk.browser()
    address = await at_provider(browser, "1")
    state = parse_qs(urlsplit(address).query)["state"][0]
    page = await back(browser, f"/sign-in/back?code=guess&state={state}")
    assert page.status == 503
    assert "does not answer as it should" in page.text


async def test_a_token_of_another_sign_in_is_refused(desk: DeskUnderTest) -> None:
    """The nonce of the noted sign-in decides, whatever code comes."""
    browser = await desk.browser()
    address = await at_provider(browser, "1")
    async with desk.desk.database.connection() as connection:
        await connection.execute("UPDATE sign_ins SET nonce = 'another'")
    assert (await back(browser, address)).status == 503


async def test_a_provider_that_is_away_is_told_in_a_sentence(environment: Environment) -> None:
    settings: dict[str, Any] = {"provider": "http://localhost:9", "client_id": "x"}
    async with open_desk(environment.databases["staff"], **settings) as desk:
        page = await (await desk.browser()).open("/sign-in/with?page=/words")
    assert page.status == 503
    assert "Single sign-on does not answer" in page.text
    assert page.form("/sign-in").fields["page"] == ["/words"]


async def test_without_a_provider_there_is_no_link(environment: Environment) -> None:
    async with open_desk(environment.databases["staff"]) as desk:
        browser = await desk.browser()
        assert "Continue with" not in (await browser.open("/sign-in")).text
        assert (await browser.open("/sign-in/with")).status == 404


@pytest.mark.parametrize(
    ("claims", "path", "roles"),
    [
        ({"roles": ["viewer", "admin", "root"]}, "roles", {Role.VIEWER, Role.ADMIN}),
        ({"roles": "viewer replayer"}, "roles", {Role.VIEWER, Role.REPLAYER}),
        ({"realm_access": {"roles": ["resolver"]}}, "realm_access.roles", {Role.RESOLVER}),
        ({"roles": {"viewer": True}}, "roles", set()),
        ({"roles": 5}, "roles", set()),
        ({}, "a.b", set()),
    ],
)
def test_roles_of_a_claim(claims: dict[str, Any], path: str, roles: set[Role]) -> None:
    assert roles_in(claims, path) == roles
