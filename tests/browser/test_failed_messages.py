"""What people do about failed messages: one by one, and many in a run. Nothing is published: what would be is in the outbox."""

import asyncio
from uuid import UUID

import pytest
from playwright.async_api import Locator, Page, expect

from services.staff import people_store
from services.staff.actions import second_thoughts
from services.staff.people import Role
from services.staff.runs import RunState
from shared.records import replace
from tests.browser.sending import Sending
from tests.browser.site import IN_ONE_LOOP, Site
from tests.browser.ways import WAYS, Press, by_mouse
from tests.support.databases import rows
from tests.support.kept_letters import event, keep, payment

pytestmark = IN_ONE_LOOP
LETTERS = 14
"""As many as one, then ten, and a rest."""


@pytest.fixture
def sending(site: Site) -> Sending:
    return Sending(site)


async def failed_payments(site: Site) -> list[UUID]:
    """Commands that charge 10.01 to 10.14 EUR."""
    letters = [payment(f"INV-{number}", 1_000 + number, site.desk.clock) for number in range(1, LETTERS + 1)]
    return await keep(site.desk.desk.database, *letters, clock=site.desk.clock)


async def sent(site: Site) -> int:
    """How many messages wait to be sent."""
    (row,) = await rows(site.database_url, "SELECT coalesce(sum(cardinality(ids)), 0)::int AS number FROM outbox")
    return int(row["number"])


async def look_again(page: Page, *, scripts: bool) -> None:
    """Without scripts a page does not change by itself."""
    if not scripts:
        await page.reload()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


async def preview(page: Page, press: Press) -> None:
    """From the overview to the preview of the only group."""
    await page.goto("/")
    await press(page.get_by_role("link", name="Open the groups"))
    await press(button(page, "Preview a replay").first)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Replay: preview")


async def begin(page: Page, press: Press) -> None:
    """Try one of the messages of the preview."""
    await page.get_by_label("Why").fill("Repaired by the deployment of 02:38.")
    await page.get_by_role("checkbox", name="Charge up to").check()
    await press(button(page, "Try one"))
    await expect(page.get_by_text("R-1 tries one message now").first).to_be_visible()


@WAYS
async def test_a_run_goes_step_by_step_and_stops_by_itself(
    site: Site, sending: Sending, press: Press, scripts: bool
) -> None:
    letters = await failed_payments(site)
    page = await site.window("ann.replayer", Role.REPLAYER, scripts=scripts)
    await preview(page, press)
    await expect(page.locator("main")).to_contain_text("Charge a card now")
    await page.get_by_label("Why").fill("Repaired.")
    await press(button(page, "Try one"))
    await expect(page.locator("#mistakes")).to_contain_text("say that it shall")
    assert await sent(site) == 0, "it charges, and nobody said that it shall"
    await begin(page, press)
    assert await sending.go_on(1) is RunState.WAITING
    await look_again(page, scripts=scripts)
    await press(button(page, "Ten, then a hundred"))
    await expect(button(page, "Pause")).to_be_visible()
    await sending.take_turn(1)
    await press(button(page, "Pause"))
    await expect(button(page, "Go on")).to_be_visible()
    assert await sending.take_turn(1) is RunState.PAUSED
    assert await sent(site) == 11
    await press(button(page, "Go on"))
    await expect(button(page, "Pause")).to_be_visible()
    assert await sending.go_on(1, but=letters[5]) is RunState.HALTED
    await look_again(page, scripts=scripts)
    await expect(page.get_by_role("heading", name="It stopped: one message failed again")).to_be_visible()
    await expect(page.locator("main")).to_contain_text("with another mistake than before")
    await expect(button(page, "Pause")).to_have_count(0)
    await press(button(page, "Leave it out and go on"))
    await expect(button(page, "Stop for good")).to_be_visible()
    await sending.go_on(1)
    await look_again(page, scripts=scripts)
    await expect(page.get_by_text("Finished", exact=True).first).to_be_visible()
    await expect(page.locator("main form")).to_have_count(0)
    assert await sent(site) == LETTERS
    await page.goto("/dead-letters")
    await expect(page.locator(".groups .figure")).to_have_text("1 open")


async def test_a_run_is_stopped_for_good_and_the_rest_stay(site: Site, sending: Sending) -> None:
    await failed_payments(site)
    page = await site.window("ann.replayer", Role.REPLAYER)
    await preview(page, by_mouse)
    await begin(page, by_mouse)
    await sending.go_on(1)
    await button(page, "Stop for good").click()
    await expect(page.get_by_text("Stopped for good").first).to_be_visible()
    await expect(page.get_by_text("wait; they stay failed messages")).to_be_visible()
    assert await sending.take_turn(1) is not RunState.RUNNING
    assert await sent(site) == 1
    await page.goto("/replays")
    await expect(page.locator("tbody tr")).to_have_count(1)


async def test_of_two_people_who_begin_a_run_at_once_one_wins_and_the_other_reads_so(
    site: Site, sending: Sending
) -> None:
    await failed_payments(site)
    windows = [await site.window(name, Role.REPLAYER) for name in ("ann.replayer", "ben.replayer")]
    await preview(windows[0], by_mouse)
    await windows[1].goto("/replays/1")
    for page in windows:
        await page.get_by_label("Why").fill("Repaired.")
        await page.get_by_role("checkbox", name="Charge up to").check()
    await asyncio.gather(*(button(page, "Try one").click() for page in windows))
    for page in windows:
        told = page.get_by_role("heading", name="Nothing was done").or_(page.get_by_text("R-1 tries one message now"))
        await expect(told.first).to_be_visible()
    lost = [page for page in windows if await page.get_by_role("heading", name="Nothing was done").count()]
    assert len(lost) == 1
    await expect(lost[0].locator("#mistakes")).to_contain_text("R-1 is running")
    assert await sending.go_on(1) is RunState.WAITING
    assert await sent(site) == 1
    for page in windows:
        await expect(button(page, "Ten, then a hundred")).to_be_visible()
    await button(windows[0], "Ten, then a hundred").dblclick()
    await expect(button(windows[0], "Pause")).to_be_visible()
    assert await sending.go_on(1) is RunState.DONE
    assert await sent(site) == LETTERS, "each once"


@WAYS
async def test_one_message_is_replayed_and_undone_discarded_and_brought_back(
    site: Site, press: Press, scripts: bool
) -> None:
    (letter_id,) = await keep(site.desk.desk.database, event(1), clock=site.desk.clock)
    page = await site.window("ann.replayer", Role.REPLAYER, scripts=scripts)
    await page.goto("/dead-letters")
    await press(page.locator(f"tbody a[href='/dead-letters/{letter_id}']"))
    await press(button(page, "Replay it"))
    await expect(page.get_by_role("status").first).to_contain_text("It goes out in 10 seconds")
    assert await sent(site) == 1
    await press(button(page, "Undo it"))
    await expect(page.get_by_role("status").first).to_contain_text("nothing was sent")
    assert await sent(site) == 0
    await press(page.locator("summary", has_text="Discard…"))
    await press(button(page, "Discard it"))
    await expect(page.locator("#mistakes")).to_contain_text("Say why it is given up.")
    await page.get_by_label("Why it is given up").fill("Sent by mistake.")
    await press(button(page, "Discard it"))
    await expect(page.get_by_role("status").first).to_contain_text("Discarded")
    site.desk.clock.forward(seconds=11)
    await page.goto(f"/dead-letters/{letter_id}")
    await press(page.locator("summary", has_text="Bring it back…"))
    await page.get_by_label("Why it comes back").fill("It was no mistake.")
    await press(button(page, "Bring it back"))
    await expect(button(page, "Replay it")).to_be_visible()
    for text in ("Sent by mistake.", "It was no mistake."):
        await expect(page.locator("main")).to_contain_text(text, ignore_case=True)


@WAYS
async def test_a_message_is_edited_and_what_says_whose_money_goes_where_is_locked(
    site: Site, press: Press, scripts: bool
) -> None:
    letter = payment("INV-1", 12_500, site.desk.clock)
    assert letter.body is not None
    body = letter.body.replace(b'"data":{', b'"data":{"mandate":"SEPA-2211",')
    (letter_id,) = await keep(
        site.desk.desk.database, replace(letter, body=body, body_bytes=len(body)), clock=site.desk.clock
    )
    page = await site.window("ann.replayer", Role.REPLAYER, scripts=scripts)
    await page.goto(f"/dead-letters/{letter_id}")
    await expect(page.get_by_text("Editing is off: an admin can turn it on.")).to_be_visible()
    async with site.desk.desk.database.transaction() as tx:
        now = site.desk.clock()
        await people_store.save_setting(tx, second_thoughts.EDIT_AND_REPLAY, value=True, who="cleo", now=now)
    await page.reload()
    await press(page.get_by_role("link", name="Edit and replay…"))
    await expect(page.get_by_role("checkbox", name="Leave out mandate")).to_be_checked()
    await expect(page.locator("[name^=set_]")).to_have_count(0)
    await page.get_by_label("Why it is edited").fill("It came too soon.")
    await press(button(page, "Replay the edited message"))
    await expect(page.get_by_role("status").first).to_contain_text("An edited message was sent in its place")
    assert await sent(site) == 2, "the new command, and the answer to the old one"


async def test_what_is_selected_stays_when_a_reason_is_missing(site: Site) -> None:
    letters = await keep(site.desk.desk.database, *(event(number) for number in range(3)), clock=site.desk.clock)
    page = await site.window("ann.replayer", Role.REPLAYER)
    await page.goto("/dead-letters?queue=saga.events")
    await expect(page.locator(".selbar")).to_contain_text("Nothing selected")
    await expect(page.locator("summary", has_text="Discard…")).to_be_hidden()
    await page.locator(f"input[value='{letters[1]}']").check()
    await page.locator("summary", has_text="Discard…").click()
    await button(page, "Discard them").click()
    await expect(page.locator("#mistakes")).to_contain_text("Say why they are given up.")
    await expect(page.locator("input[name=id]:checked")).to_have_count(1)
    await page.get_by_label("Why they are given up").fill("Sent by mistake.")
    await button(page, "Discard them").click()
    await expect(page.get_by_role("status").first).to_contain_text("1 discarded")


async def test_a_list_says_what_came_and_does_not_move(site: Site) -> None:
    first, *_ = await keep(site.desk.desk.database, event(1), event(2), clock=site.desk.clock)
    page = await site.window("ann.replayer", Role.REPLAYER)
    other = await site.window("ben.replayer", Role.REPLAYER)
    await page.goto("/dead-letters?queue=saga.events")
    await other.goto(f"/dead-letters/{first}")
    site.desk.clock.forward(seconds=5)
    await keep(site.desk.desk.database, event(3), clock=site.desk.clock)
    await expect(page.get_by_role("link", name="1 more failed since this list began. Show it")).to_be_visible()
    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.goto(f"/dead-letters/{first}")
    await button(page, "Replay it").click()
    await expect(other.locator(".head .badge")).to_contain_text("Goes out in")
    await other.get_by_role("link", name="It has changed since this page was opened. Show it").click()
    await expect(button(other, "Replay it")).to_have_count(0)


async def test_whoever_may_only_look_reads_whom_to_ask(site: Site, sending: Sending) -> None:
    letters = await failed_payments(site)
    ann = await site.window("ann.replayer", Role.REPLAYER)
    await preview(ann, by_mouse)
    page = await site.window("vera", Role.VIEWER)
    for address in ("/replays/1", f"/dead-letters/{letters[0]}", "/dead-letters"):
        await page.goto(address)
        await expect(page.get_by_text("Your role is viewer: replaying takes a replayer.").first).to_be_visible()
        assert await page.locator("main form[method=post] button:not([type=button])").count() == 0, address
