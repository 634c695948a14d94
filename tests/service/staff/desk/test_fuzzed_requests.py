"""Every page, every act and the same in the API, with every parameter as nobody types it in good faith: no answer is an error of ours.

`test_api_schema` sends what the description of the API gives rise to. Here are pages and forms, too, and what only a database minds.
"""

from collections.abc import Iterator
from urllib.parse import quote
from uuid import uuid4

import pytest

from services.staff.actions import runs as run_actions
from services.staff.desk.app import rooms_of_pages
from services.staff.desk.routing import API, DeskPage, FormAct
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Role, Via
from tests.support.desk_browser import DeskBrowser, DeskUnderTest
from tests.support.kept_cases import keep_case
from tests.support.kept_letters import event, keep

NUMBERS = ("-1", "0", "9" * 30, "9" * 5_000, "1e400", "٣")
MOMENTS = (
    "0001-01-01",
    "9999-12-31",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999-14:00",
    "2026-11-28T02:00:00",
    "253402300800",
)
TEXTS = ("\0", "\udcff", "\ud800", "<script>alert(1)</script>\u202e\x1b[2J'\"\\%_{{7*7}}", "x" * 6_000, "", " ")
IDS = ("00000000-0000-0000-0000-000000000000", "not-an-id")
KEYS = tuple(f"{moment}_{IDS[0]}" for moment in MOMENTS)
IN_FORMS = (*NUMBERS, *MOMENTS, *TEXTS, *IDS)
HOSTILE = (*IN_FORMS, *KEYS)
"""In an address a moment and an id may say where a list goes on."""
ROOMS = rooms_of_pages()
PAGES = [page for room in ROOMS for page in room.pages]
ACTS = [act for room in ROOMS for act in room.acts]
FORM = {"sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
OTHERS = ("/sign-in?page=", "/live?on=", f"{API}/live?on=", "/find?q=")


@pytest.fixture
async def there(desk: DeskUnderTest) -> dict[str, str]:
    """Something of each kind that an address names."""
    database = desk.desk.database
    (letter_id,) = await keep(database, event(1), clock=desk.clock)
    who = Actor("ann", Via.DESK)
    await run_actions.preview(database, LetterFilter(), who=who, title="a test", clock=desk.clock)
    payment_id = await keep_case(database)
    named = {"letter_id": letter_id, "payment_id": payment_id, "no": 1, "position": 1, "command_id": uuid4()}
    return {name: str(value) for name, value in named.items()} | {"invoice_id": "INV-1", "name": "ann"}


@pytest.fixture
async def ann(desk: DeskUnderTest) -> DeskBrowser:
    browser = await desk.browser("ann", *Role)
    browser.client.follow_redirects = False
    return browser


def filled(address: str, there: dict[str, str], **changed: str) -> str:
    for name, value in {**there, **changed}.items():
        address = address.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    return address


def quoted(value: str) -> str:
    """The value as it stands in an address. What is no text is there as bytes."""
    return quote(value.encode(errors="surrogatepass"), safe="")


def addresses(page: DeskPage, there: dict[str, str]) -> Iterator[str]:
    """A page with each of its parameters as each of the hostile values; those of the query twice, and as a name, too."""
    here = filled(page.address, there)
    for value in map(quoted, HOSTILE):
        for name in page.parameters.of_address:
            yield filled(page.address, there, **{name: value or "%20"})
        for name in page.parameters.of_query:
            yield f"{here}?{name}={quoted(HOSTILE[0])}&{name}={value}&{value[:100]}={value[:100]}"


async def look(desk: DeskUnderTest, browser: DeskBrowser, address: str) -> None:
    desk.clock.forward(seconds=10)
    answer = await browser.client.get(address, headers={"sec-fetch-site": "same-origin"})
    assert answer.status_code < 500, address
    if not answer.headers.get("content-disposition", "").startswith("attachment"):  # no browser shows a file as a page
        assert "<script>alert" not in answer.text, address


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.address)
async def test_a_page_answers_whatever_its_address_says(
    desk: DeskUnderTest, ann: DeskBrowser, there: dict[str, str], page: DeskPage
) -> None:
    for address in addresses(page, there):
        await look(desk, ann, address)


async def test_what_is_no_page_of_a_room_answers_too(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    nobody = await desk.browser()
    for value in HOSTILE:
        for address in OTHERS:
            await look(desk, nobody, f"{address}{quoted(value)}")


def forms(act: FormAct) -> Iterator[dict[str, str]]:
    """The form of an act with all of its fields as each of the hostile values, and with one of them, where others are as they should be."""
    names = [name for name in act.model.model_fields if name != "once"]
    for value in IN_FORMS:
        yield dict.fromkeys((*names, value), value)
    for name in names:
        yield from ({**dict.fromkeys(names, "1"), name: value} for value in (NUMBERS[2], *TEXTS[:3]))


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.address)
async def test_an_act_answers_whatever_its_form_says(
    desk: DeskUnderTest, ann: DeskBrowser, there: dict[str, str], act: FormAct
) -> None:
    page = await ann.open("/words")
    key = next(form.fields["form_key"][0] for form in page.forms if "form_key" in form.fields)
    here = filled(act.address, there)
    for fields in forms(act):
        desk.clock.forward(seconds=10)
        sent = {"once": str(uuid4()), **fields, "form_key": key}
        body = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in sent.items())
        answer = await ann.client.post(here, content=body, headers=FORM)
        assert answer.status_code < 500, (here, fields)
