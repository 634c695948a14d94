"""The pages of failed messages and runs: what they show, what their forms do, and what they refuse."""

import json
import re
from datetime import timedelta
from html import escape
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.staff import people_store, store
from services.staff.actions import second_thoughts
from services.staff.dead_letters import DeadLetter, arrive
from services.staff.desk.pages import replays
from services.staff.desk.pages.dead_letters import GROUPS_MAX
from services.staff.people import Actor, Role, Via
from services.staff.run_sender import RunSender
from shared.clock import Clock
from shared.contracts.invoice import InvoiceVoided
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.envelope import Cause, Draft
from shared.records import replace
from tests.support.databases import execute, rows
from tests.support.desk_browser import DeskBrowser, DeskUnderTest
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, keep_request
from tests.support.kept_letters import event, keep, payment

HOSTILE = "<script>alert(1)</script>\u202e\x1b[2J{{7*7}}"


@pytest.fixture
async def ann(desk: DeskUnderTest) -> DeskBrowser:
    """Somebody who may replay."""
    return await desk.browser("ann.replayer", Role.REPLAYER)


async def kept(desk: DeskUnderTest, *letters: object) -> list[UUID]:
    return await keep(desk.desk.database, *letters, clock=desk.clock)  # type: ignore[arg-type]


def invoice_event(clock: Clock) -> DeadLetter:
    """A dead letter of an event that can be read, and so be edited."""
    told = InvoiceVoided(invoice_id="INV-1", reason="a duplicate")
    sent = encode(Draft(told), Cause(uuid4(), "C-1", clock()), 0, source="invoice")
    body = {"body": sent.body, "body_bytes": len(sent.body), "content_type": STRUCTURED, "type": told.wire_name}
    return replace(event(1), event_id=sent.id, **body)  # type: ignore[arg-type]


async def test_nothing_failed(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    page = await ann.open("/dead-letters")
    assert "No failed messages." in page.text
    assert "No replay was ever run." in (await ann.open("/replays")).text
    assert "None matches." in (await ann.open("/dead-letters?queue=x")).text
    assert (await ann.open("/dead-letters?status=lost")).status == 422
    assert (await ann.open("/dead-letters?after=lost")).status == 422


async def test_groups_say_what_a_replay_would_charge(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await kept(desk, payment("INV-1", 12_500, desk.clock), payment("INV-2", 1_000, desk.clock), event(1))
    page = await ann.open("/dead-letters")
    assert "2 groups of failed messages" in page.text
    assert "PayInvoice: the handler failed: TypeError" in page.text
    assert "Replaying charges cards: 135.00 EUR." in page.text
    assert "Replaying charges nobody." in page.text


async def test_however_many_groups_there_are_each_is_counted_and_shown(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    """Senders choose the type, so they choose how many groups there are."""
    letters = [replace(payment("INV-1", 1_000, desk.clock), type=f"remit.invoice.New{n}.v1") for n in range(25)]
    await kept(desk, *letters)
    first = await ann.open("/dead-letters")
    assert "25 groups of failed messages" in first.text
    assert "20 shown of 25" in first.text
    (more,) = {link for link in first.links if "groups_after=" in link}
    second = await ann.open(more)
    groups = [{link for link in page.links if "&group=" in link} for page in (first, second)]
    assert ([len(some) for some in groups], groups[0] & groups[1]) == ([20, 5], set())
    assert (await ann.open("/dead-letters?groups_after=lost")).status == 422
    overview = await ann.open("/")
    assert "25 failed messages wait. 25 groups, the first since" in overview.text
    assert "25 are payments, 250.00 EUR: nothing was charged." in overview.text


@pytest.mark.parametrize(
    ("how", "why", "says"),
    [
        ("refused", "saga.events", "It stopped: the broker does not take its messages"),
        ("error", HOSTILE, "It stopped: an error of Remit's own"),
    ],
)
async def test_a_run_that_is_held_says_why_and_goes_on(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser, how: str, why: str, says: str
) -> None:
    await kept(desk, event(1))
    preview = await ann.submit(await ann.open("/dead-letters"), "/replays", what="group")
    await ann.submit(preview, "/replays/1/try", reason="repaired")
    held = "UPDATE replay_runs SET state = 'halted', halted_how = $1, halted_why = $2"
    await execute(environment.databases["staff"], held, how, why)
    page = await ann.open("/replays/1")
    assert says in page.text
    assert "<script>alert" not in page.html
    on = await ann.submit(page, "/replays/1/resume")
    assert "R-1 goes on" in on.text
    assert says not in on.text


async def test_a_group_that_would_charge_an_unknown_amount_says_so(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    later = replace(payment("INV-1", 12_500, desk.clock), amount_minor=None, currency=None)
    await kept(desk, later)
    assert "Replaying charges cards: amount not known yet." in (await ann.open("/dead-letters")).text


async def test_a_list_goes_on_by_key(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await kept(desk, *(event(number) for number in range(60)))
    first = await ann.open("/dead-letters?queue=saga.events")
    (older,) = {link for link in first.links if "after=" in link}
    second = await ann.open(older)
    ids = [{link for link in page.links if link.startswith("/dead-letters/")} for page in (first, second)]
    assert [len(some) for some in ids] == [50, 10]
    assert not ids[0] & ids[1]
    desk.clock.forward(seconds=1)
    await kept(desk, event(99))
    assert "1 more failed since this list began. Show it" in (await ann.open(older)).text


async def test_one_message_is_replayed_and_undone(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    (letter_id,) = await kept(desk, payment("INV-1", 12_500, desk.clock))
    address = f"/dead-letters/{letter_id}"
    page = await ann.open(address)
    assert "Replaying it charges a card: 125.00 EUR" in page.text
    assert "pm_card_visa" not in page.html
    done = await ann.submit(page, f"{address}/replay")
    assert (done.status, "It goes out in 10 seconds" in done.text, "Goes out in" in done.text) == (200, True, True)
    back = await ann.submit(done, f"{address}/undo")
    assert "is undone: nothing was sent" in back.text
    assert await rows(environment.databases["staff"], "SELECT 1 FROM outbox") == []
    assert f"{address}/replay" in [form.action for form in (await ann.open(address)).forms]


async def test_what_is_too_old_cannot_be_replayed(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    (letter_id,) = await kept(desk, payment("INV-1", 12_500, desk.clock))
    address = f"/dead-letters/{letter_id}"
    before = await ann.open(address)
    desk.clock.forward(hours=25)
    ann = await desk.browser("ben.replayer", Role.REPLAYER)
    page = await ann.open(address)
    assert "It is too old to charge" in page.text
    assert f"{address}/replay" not in [form.action for form in page.forms]
    assert f"{address}/replay" in [form.action for form in before.forms]


async def test_a_discard_needs_a_reason_and_what_was_typed_stays(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    (letter_id,) = await kept(desk, event(1))
    address = f"/dead-letters/{letter_id}"
    refused = await ann.submit(await ann.open(address), f"{address}/discard", reason="")
    assert (refused.status, "Say why it is given up." in refused.text) == (422, True)
    done = await ann.submit(refused, f"{address}/discard", reason="no use")
    assert "Discarded" in done.text
    desk.clock.forward(seconds=30)
    page = await ann.open(address)
    silent = await ann.submit(page, f"{address}/restore")
    assert (silent.status, "Say why it comes back." in silent.text) == (422, True)
    restored = await ann.submit(silent, f"{address}/restore", reason="of use")
    assert "It is open again" in restored.text or "it is open again" in restored.text


async def test_a_note_is_kept_and_a_run_has_a_live_region(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    (letter_id,) = await kept(desk, event(1))
    address = f"/dead-letters/{letter_id}"
    page = await ann.submit(await ann.open(address), f"{address}/notes", note="asked billing")
    assert "ann.replayer: asked billing" in page.text
    assert await replays.run_state("1", desk.desk, Actor("ann", Via.DESK)) is None
    assert await replays.run_state("x", desk.desk, Actor("ann", Via.DESK)) is None
    await ann.submit(await ann.open("/dead-letters"), "/replays", id=str(letter_id), what="selected")
    seen = await replays.run_state("1", desk.desk, Actor("ann", Via.DESK))
    assert seen is not None
    assert (seen.total, seen.sent) == (1, 0)


async def test_a_viewer_sees_and_does_nothing(desk: DeskUnderTest) -> None:
    viewer = await desk.browser("vic.viewer", Role.VIEWER)
    (letter_id,) = await kept(desk, event(1))
    address = f"/dead-letters/{letter_id}"
    page = await viewer.open(address)
    assert "Your role is viewer: replaying takes a replayer." in page.text
    refused = await viewer.submit(page, f"{address}/replay")
    assert refused.status == 403


async def test_hostile_texts_are_shown_and_do_nothing(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    texts = replace(
        event(1),
        type=HOSTILE,
        error_text=HOSTILE,
        error_type=HOSTILE,
        reply_to=HOSTILE,
        body=HOSTILE.encode(),
        headers={HOSTILE: HOSTILE},
    )
    (letter_id,) = await kept(desk, texts)
    for address in ("/dead-letters", "/dead-letters?status=all", f"/dead-letters/{letter_id}"):
        page = await ann.open(address)
        assert page.status == 200
        assert "<script>alert" not in page.html
        assert "\u202e" not in page.html
        assert "{{7*7}}" in page.html or "7*7" in page.html
    assert (await ann.open(f"/dead-letters/{letter_id}/edit")).status == 422


async def test_hostile_texts_do_nothing_where_a_message_is_edited_or_a_list_is_fixed(
    desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    letter = payment("INV-1", 12_500, desk.clock)
    assert letter.body is not None
    added = json.dumps({HOSTILE: HOSTILE, "token": "pm_secret"}).encode()[1:-1]
    body = letter.body.replace(b'"data":{', b'"data":{' + added + b",")
    texts: dict[str, Any] = {"invoice_id": HOSTILE, "type": HOSTILE, "error_type": HOSTILE}
    (letter_id,) = await kept(desk, replace(letter, body=body, body_bytes=len(body), **texts))
    edit = await ann.open(f"/dead-letters/{letter_id}/edit")
    assert r"Its value is <script>alert(1)</script>\u202e\x1b[2J" in edit.text
    preview = await ann.submit(await ann.open("/dead-letters"), "/replays", what="group")
    assert preview.address.startswith("/replays/1")
    for page in (edit, preview, await ann.open("/replays"), await ann.open("/activity")):
        assert page.status == 200
        assert "<script>alert" not in page.html
        assert "pm_secret" not in page.html
        assert not {"\u202e", "\x1b"} & set(page.html.replace(f'value="{escape(HOSTILE)}"', ""))


async def test_an_edit_shows_what_changes_and_sends_it(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    letter = payment("INV-1", 12_500, desk.clock)
    assert letter.body is not None
    body = letter.body.replace(b'"data":{', b'"data":{"mandate":"SEPA-2211",')
    (letter_id,) = await kept(desk, replace(letter, body=body, body_bytes=len(body)))
    address = f"/dead-letters/{letter_id}"
    async with desk.desk.database.transaction() as tx:
        await people_store.save_setting(tx, second_thoughts.EDIT_AND_REPLAY, value=True, who="cleo", now=desk.clock())
    page = await ann.open(f"{address}/edit")
    assert "Leave out mandate" in page.text
    assert '- "mandate": "SEPA-2211"' in page.text
    assert "pm_card_visa" not in page.html
    done = await ann.submit(page, f"{address}/edit", reason="it came too soon")
    assert "An edited message was sent in its place" in done.text
    types = await rows(environment.databases["staff"], "SELECT type FROM outbox_messages ORDER BY type")
    assert [row["type"] for row in types] == ["remit.invoice.CloseCommand.v1", "remit.invoice.PayInvoice.v1"]


async def test_a_run_from_preview_to_end(desk: DeskUnderTest, ann: DeskBrowser, environment: Environment) -> None:
    await kept(desk, payment("INV-1", 12_500, desk.clock), payment("INV-2", 400, desk.clock))
    group = await ann.open("/dead-letters")
    preview = await ann.submit(group, "/replays")
    assert preview.address.startswith("/replays/1")
    assert "Charge up to 2 cards: 129.00 EUR" in preview.text
    refused = await ann.submit(preview, "/replays/1/try", reason="repaired")
    assert (refused.status, "say that it shall" in refused.text) == (422, True)
    too_fast = await ann.submit(refused, "/replays/1/try", reason="repaired", sure="true", rate="501")
    assert "between 1 and 500 a second" in too_fast.text
    running = await ann.submit(preview, "/replays/1/try", reason="repaired", sure="true")
    assert "R-1 tries one message now" in running.text
    sender = RunSender(desk.desk.database, NoRelay(), desk.clock, old_after=timedelta(days=1))  # type: ignore[arg-type]
    await sender.take_turn(1)
    await execute(
        environment.databases["staff"], "UPDATE dead_letters SET outcome = 'handled' WHERE replay_entry IS NOT NULL"
    )
    await sender.take_turn(1)
    page = await ann.open("/replays/1")
    assert "1 of 2 sent" in page.text
    assert "Waits for you to go on" in page.text
    await ann.submit(page, "/replays/1/go")
    await sender.take_turn(1)
    await execute(
        environment.databases["staff"], "UPDATE dead_letters SET outcome = 'handled' WHERE replay_entry IS NOT NULL"
    )
    await sender.take_turn(1)
    ended = await ann.open("/replays/1")
    assert "Finished" in ended.text
    form_key = preview.form("/replays/1/try").fields["form_key"][0]
    late = await ann.post("/replays/1/pause", {"form_key": form_key, "once": str(desk.desk.ids())})
    assert (late.status, "R-1 is finished" in late.text) == (409, True)
    assert "R-1" in (await ann.open("/replays")).text


async def test_every_message_of_a_run_is_on_one_page(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    """Those of one turn end in the same moment, and what is on its way has no end."""
    ids = await kept(desk, *(event(number) for number in range(130)))
    preview = await ann.submit(await ann.open("/dead-letters"), "/replays", what="group")
    await ann.submit(preview, "/replays/1/try", reason="repaired")
    came = "UPDATE replay_items SET state = $1, sent_at = now(), ended_at = $2 WHERE position BETWEEN $3 AND $4"
    for state, ended_at, first, last in ((5, desk.clock(), 0, 70), (1, None, 71, 130)):
        await execute(environment.databases["staff"], came, state, ended_at, first, last)
    seen: list[str] = []
    address: str | None = "/replays/1"
    while address is not None:
        page = await ann.open(address)
        (listed,) = [part for part in page.html.split("<section") if "latest first" in part]
        seen += re.findall(r'href="/dead-letters/([0-9a-f-]{36})"', listed)
        address = next((link for link in page.links if "after=" in link), None)
    assert len(seen) == 130
    assert set(seen) == {str(id_) for id_ in ids}
    assert (await ann.open("/replays/1?after=2026-01-01_1_")).status == 422


async def test_a_run_that_stopped_names_its_message_however_many_failed(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    ids = await kept(desk, *(replace(event(number), invoice_id=f"INV-{number}") for number in range(60)))
    preview = await ann.submit(await ann.open("/dead-letters"), "/replays", what="group")
    await ann.submit(preview, "/replays/1/try", reason="repaired")
    failed = "UPDATE replay_items SET state = 5, sent_at = now(), ended_at = now() - position * interval '1 second'"
    await execute(environment.databases["staff"], failed)
    (last,) = await rows(
        environment.databases["staff"], "SELECT letter_id FROM replay_items ORDER BY position DESC LIMIT 1"
    )
    halt = "UPDATE replay_runs SET state = 'halted', halted_how = 'failed', halted_by = $1"
    await execute(environment.databases["staff"], halt, last["letter_id"])
    page = await ann.open("/replays/1")
    assert f"of INV-{ids.index(last['letter_id'])}" in page.text
    assert "60 failed again, or show no sign." in page.text
    assert "Leave these 60 out and go on" in page.text


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({"since": "2026-11-28T02:15:00Z"}, [2, 3]),
        ({"until": "2026-11-28T02:15:00Z"}, [1]),
        ({"since": "2026-11-28T02:15:00Z", "until": "2026-11-28T02:20:00Z"}, [2]),
    ],
    ids=["since", "until", "between"],
)
async def test_a_program_previews_what_failed_in_a_time(
    desk: DeskUnderTest, environment: Environment, wanted: dict[str, str], numbers: list[int]
) -> None:
    """At 02:14, 02:17 and 02:20."""
    ids: list[UUID] = []
    for number in (1, 2, 3):
        ids += await kept(desk, event(number))
        desk.clock.forward(minutes=3)
    program = await desk.token("nightly", Role.REPLAYER)
    made = await program.post("/api/v1/replays", json={"once": str(uuid4()), "what": "group", **wanted})
    assert made.status_code == 200, made.text
    listed = await rows(environment.databases["staff"], "SELECT letter_id FROM replay_items")
    assert {row["letter_id"] for row in listed} == {ids[number - 1] for number in numbers}
    await program.aclose()


async def test_what_has_some_words_is_previewed_as_it_is_listed(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    """Words that hold card data would stand in the log for ever."""
    fitting, _ = await kept(
        desk, replace(event(1), error_text="receipt R_1"), replace(event(2), error_text="receipt Rx1")
    )
    listed = await ann.open("/dead-letters?words=R_1&queue=saga.events")
    preview = await ann.submit(listed, "/replays", what="group")
    assert "A fixed list of 1 message" in preview.text
    found = await rows(environment.databases["staff"], "SELECT letter_id FROM replay_items")
    assert [row["letter_id"] for row in found] == [fitting]
    program = await desk.token("nightly", Role.REPLAYER)
    wanted = {"once": str(uuid4()), "what": "group", "words": "4242 4242 4242 4242"}
    refused = await program.post("/api/v1/replays", json=wanted)
    assert (refused.status_code, refused.json()["code"]) == (422, "card_data")
    await program.aclose()


async def test_programs_page_through_the_groups(desk: DeskUnderTest) -> None:
    letters = [replace(event(number), error_type=f"Error{number}") for number in range(GROUPS_MAX + 1)]
    await kept(desk, *letters)
    program = await desk.token("nightly", Role.VIEWER)
    first = (await program.get("/api/v1/dead-letters/groups")).json()
    rest = (await program.get("/api/v1/dead-letters/groups", params={"after": first["next"]})).json()
    assert (len(first["groups"]), len(rest["groups"]), rest["total"], rest["next"]) == (20, 1, GROUPS_MAX + 1, None)
    assert {one["open"] for one in first["groups"]} == {1}
    assert not {one["group"] for one in first["groups"]} & {one["group"] for one in rest["groups"]}
    await program.aclose()


async def test_a_list_of_runs_is_live_and_says_what_was_made_since(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    await kept(desk, event(1), event(2))
    await ann.submit(await ann.open("/dead-letters"), "/replays", what="group")
    (key,) = re.findall(r'data-live="runs:([^"]+)"', (await ann.open("/replays")).html)
    await ann.submit(await ann.open("/dead-letters"), "/replays", what="group")
    await execute(environment.databases["staff"], "UPDATE replay_runs SET state = 'stopped' WHERE no = 1")
    ann_looks = Actor("ann", Via.DESK)
    seen = await replays.runs_now(key=key, desk=desk.desk, viewer=ann_looks)
    assert seen is not None
    assert ([(one.no, one.badge[1]) for one in seen.runs], seen.newer) == ([(1, "Stopped for good")], 1)
    for nonsense in ("", "1", "x.1", f"1.{10**30}"):
        assert await replays.runs_now(key=nonsense, desk=desk.desk, viewer=ann_looks) is None
    older = await ann.open("/replays?before=2")
    assert "more since this list began" not in older.text
    assert 'data-live="runs:1.2"' in older.html


class NoRelay:
    """Stands in for the broker."""

    async def publish(self, batches: object) -> None: ...


async def test_the_same_as_json(desk: DeskUnderTest) -> None:
    (letter_id,) = await kept(desk, event(1))
    async with await desk.token("program", Role.REPLAYER) as program:
        listed = (await program.get("/api/v1/dead-letters?queue=saga.events")).json()
        assert [one["id"] for one in listed["letters"]] == [str(letter_id)]
        version = (await program.get(f"/api/v1/dead-letters/{letter_id}")).json()["version"]
        once = {"once": str(desk.desk.ids()), "version": version}
        done = [await program.post(f"/api/v1/dead-letters/{letter_id}/replay", json=once) for _ in range(2)]
        assert [one.status_code for one in done] == [200, 200]
        assert done[0].json() == done[1].json()
        other = await program.post(
            f"/api/v1/dead-letters/{letter_id}/replay", json={**once, "once": str(desk.desk.ids())}
        )
        assert (other.status_code, other.json()["code"]) == (409, "already_replayed")
        made = await program.post("/api/v1/replays", json={"once": str(desk.desk.ids()), "id": [str(letter_id)]})
        assert (await program.get(f"/api/v1{made.json()['location']}")).json()["bins"][0]["bin"] == "not_open"


async def comes_again(desk: DeskUnderTest, letter_id: UUID, **changes: Any) -> None:
    """The message fails again, in another way."""
    desk.clock.forward(seconds=1)
    async with desk.desk.database.transaction() as tx:
        records = await store.lock_letters(tx, [letter_id])
        record = records[letter_id]
        letter = replace(record.letter, generation=record.replays, **changes)
        await store.save_letters(tx, [arrive(record, letter, desk.clock())], locked=records)


CHANGED = "It changed since it was shown: look at it again."


@pytest.mark.parametrize("act", ["replay", "discard", "edit"])
async def test_what_changed_since_its_page_was_opened_is_refused(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment, act: str
) -> None:
    (letter_id,) = await kept(desk, payment("INV-1", 12_500, desk.clock))
    async with desk.desk.database.transaction() as tx:
        await people_store.save_setting(tx, second_thoughts.EDIT_AND_REPLAY, value=True, who="cleo", now=desk.clock())
    page, form = f"/dead-letters/{letter_id}", f"/dead-letters/{letter_id}/{act}"
    before = await ann.open(form if act == "edit" else page)
    await comes_again(desk, letter_id, error_text="another mistake", amount_minor=12_600)
    refused = await ann.submit(before, form, reason="seen")
    assert (refused.status, CHANGED in refused.text) == (409, True)
    assert await rows(environment.databases["staff"], "SELECT 1 FROM outbox") == []
    assert (await ann.submit(refused, form, reason="seen")).status == 200, "now it was seen as it is"


async def test_an_undo_takes_back_what_was_shown_and_nothing_else(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    (letter_id,) = await kept(desk, event(1))
    address = f"/dead-letters/{letter_id}"
    hers = await ann.submit(await ann.open(address), f"{address}/discard", reason="no use")
    await ann.submit(hers, f"{address}/undo")
    ben = await desk.browser("ben.replayer", Role.REPLAYER)
    await ben.submit(await ben.open(address), f"{address}/replay")
    late = await ann.post(
        hers.form(f"{address}/undo").action, {**hers.form(f"{address}/undo").fields, "once": str(uuid4())}
    )
    assert (late.status, "ben.replayer did something else with it since" in late.text) == (409, True)


async def test_a_discard_that_was_brought_back_and_done_anew_is_not_brought_back_by_an_old_page(
    desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    (letter_id,) = await kept(desk, event(1))
    address = f"/dead-letters/{letter_id}"
    await ann.submit(await ann.open(address), f"{address}/discard", reason="no use")
    desk.clock.forward(seconds=30)
    old = await ann.open(address)
    await ann.submit(await ann.open(address), f"{address}/restore", reason="of use")
    ben = await desk.browser("ben.replayer", Role.REPLAYER)
    await ben.submit(await ben.open(address), f"{address}/discard", reason="no use, I asked")
    refused = await ann.submit(old, f"{address}/restore", reason="of use", once=str(uuid4()))
    assert (refused.status, CHANGED in refused.text) == (409, True)


async def test_of_a_list_only_what_it_showed_is_discarded(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    ids = await kept(desk, event(1), event(2))
    before = await ann.open("/dead-letters?queue=saga.events")
    await comes_again(desk, ids[0])
    fields = {**before.form("/replays").fields, "id": [str(id_) for id_ in ids], "why": "no use"}
    done = await ann.post("/dead-letters/discard", fields)
    assert "1 discarded. 1 was not: it changed since it was shown" in done.text
    found = await rows(environment.databases["staff"], "SELECT id FROM dead_letters WHERE status = 'open'")
    assert [row["id"] for row in found] == [ids[0]]


async def test_what_waits_for_a_second_person_is_not_called_discarded(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    amounts = (LIMIT, LIMIT + 1, LIMIT + 2)
    small, *large = [(await keep_request(desk.desk.database, amount))[0] for amount in amounts]
    page = await ann.open("/dead-letters?queue=payment_gateway.requests")
    assert "Above the limit such a request waits for a second person." in page.text
    assert "Select at least one." in (await ann.submit(page, "/replays", what="selected")).text
    fields = {**page.form("/replays").fields, "seen": desk.clock().isoformat(), "why": "no use"}
    first = await ann.post("/dead-letters/discard", {**fields, "once": str(uuid4()), "id": [str(large[0])]})
    assert "1 waits for a second person, and nothing is sent before." in first.text
    both = {**fields, "once": str(uuid4()), "id": [str(id_) for id_ in (small, *large)]}
    done = await ann.post("/dead-letters/discard", both)
    assert "1 discarded. 1 waits for a second person, and nothing is sent before. 1 was not: ann.replayer" in done.text


async def test_what_an_edited_message_stands_for_is_not_offered_to_be_brought_back(
    desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    (letter_id,) = await kept(desk, invoice_event(desk.clock))
    async with desk.desk.database.transaction() as tx:
        await people_store.save_setting(tx, second_thoughts.EDIT_AND_REPLAY, value=True, who="cleo", now=desk.clock())
    address = f"/dead-letters/{letter_id}"
    done = await ann.submit(await ann.open(f"{address}/edit"), f"{address}/edit", reason="it came too soon")
    assert "An edited message was sent in its place: it cannot be brought back." in done.text
    assert f"{address}/restore" not in {form.action for form in done.forms}


async def test_a_run_begins_with_the_list_that_was_shown(desk: DeskUnderTest) -> None:
    await kept(desk, payment("INV-1", 12_500, desk.clock))
    desk.clock.forward(hours=25)
    await kept(desk, payment("INV-2", 400, desk.clock))
    ann, ben = [await desk.browser(name, Role.REPLAYER) for name in ("ann.replayer", "ben.replayer")]
    preview = await ann.submit(await ann.open("/dead-letters"), "/replays")
    assert "Charge up to 1 cards: 4.00 EUR" in preview.text
    await ben.submit(await ben.open("/replays/1"), "/replays/1/second", reason="promised")
    refused = await ann.submit(preview, "/replays/1/try", reason="repaired", sure="true")
    assert (refused.status, "R-1 changed since it was shown: look at it again." in refused.text) == (409, True)
    assert "Charge up to 2 cards: 129.00 EUR" in refused.text
    assert (await ann.submit(refused, "/replays/1/try", reason="repaired", sure="true")).status == 200


async def test_what_a_run_leaves_out_is_the_message_that_was_shown(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment
) -> None:
    ids = await kept(desk, event(1), event(2))
    preview = await ann.submit(await ann.open("/dead-letters"), "/replays", what="group")
    await ann.submit(preview, "/replays/1/try", reason="repaired")
    halt = "UPDATE replay_runs SET state = 'halted', halted_how = 'failed', halted_by = $1"
    await execute(environment.databases["staff"], halt, ids[0])
    before = await ann.open("/replays/1")
    await execute(environment.databases["staff"], halt, ids[1])
    refused = await ann.submit(before, "/replays/1/leave-out")
    assert (refused.status, "R-1 changed since it was shown" in refused.text) == (409, True)
    assert "R-1 goes on without it" in (await ann.submit(refused, "/replays/1/leave-out")).text


async def test_what_is_too_old_is_taken_in_by_a_second_person(desk: DeskUnderTest, environment: Environment) -> None:
    await kept(desk, payment("INV-1", 12_500, desk.clock))
    desk.clock.forward(hours=25)
    ann = await desk.browser("ann.replayer", Role.REPLAYER)
    await kept(desk, payment("INV-2", 400, desk.clock))
    preview = await ann.submit(await ann.open("/dead-letters"), "/replays")
    assert "1 would charge 125.00 EUR" in preview.text
    assert "/replays/1/second" not in preview.html
    key = {"form_key": preview.form("/replays/1/try").fields["form_key"][0], "reason": "promised"}
    own = await ann.post("/replays/1/second", {**key, "once": str(desk.desk.ids())})
    assert (own.status, "You made the list: another person" in own.text) == (403, True)
    robot = await desk.token("robot", Role.REPLAYER)
    program = await robot.post("/api/v1/replays/1/second", json={"once": str(desk.desk.ids()), "reason": "promised"})
    assert (program.status_code, program.json()["code"]) == (403, "not_allowed")
    ben = await desk.browser("ben.replayer", Role.REPLAYER)
    taken = await ben.submit(await ben.open("/replays/1"), "/replays/1/second", reason="promised by telephone")
    assert "ben.replayer took in what is older than 24 hours" in taken.text
    assert "Charge up to 2 cards: 129.00 EUR" in taken.text
    alone = await ben.submit(taken, "/replays/1/try", reason="repaired", sure="true")
    assert (alone.status, "another person has to start it" in alone.text) == (403, True)
    (letters,) = await rows(environment.databases["staff"], "SELECT count(*) AS sent FROM outbox")
    assert letters["sent"] == 0
    started = await ann.submit(await ann.open("/replays/1"), "/replays/1/try", reason="repaired", sure="true")
    assert "R-1 tries one message now" in started.text
    sender = RunSender(desk.desk.database, NoRelay(), desk.clock, old_after=timedelta(days=1))  # type: ignore[arg-type]
    await sender.take_turn(1)
    await execute(
        environment.databases["staff"], "UPDATE dead_letters SET outcome = 'handled' WHERE replay_entry IS NOT NULL"
    )
    await sender.take_turn(1)
    await ann.submit(await ann.open("/replays/1"), "/replays/1/go")
    await sender.take_turn(1)
    items = await rows(environment.databases["staff"], "SELECT state, taken_in FROM replay_items ORDER BY position")
    assert [(row["state"], row["taken_in"]) for row in items] == [(2, False), (1, True)]
