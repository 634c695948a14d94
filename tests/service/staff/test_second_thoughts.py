"""Undo, bringing back, and edited messages: nothing is both undone and sent, and an old command is never carried out beside the new one."""

import json
from uuid import UUID, uuid4

import pytest

from services.staff import people_store
from services.staff.__main__ import assemble
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.actions import second_thoughts
from services.staff.actions.results import ActionRefusal
from services.staff.people import Actor, Via
from services.staff.store import Selection
from shared.clock import system_clock
from shared.contracts.invoice import InvoicePaymentRequested, TokenMethod, VoidInvoice
from shared.ids import derived_id
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.envelope import Cause, Draft, Lane
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.records import replace
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.kept_letters import QUEUE, event, keep, payment
from tests.support.upstream_client import UpstreamClient

ANN = Actor("ann", Via.DESK)


def request_of_a_payment() -> "InvoicePaymentRequested":
    return InvoicePaymentRequested(
        invoice_id="INV-1",
        payment_id=uuid4(),
        amount_minor=100,
        currency="EUR",
        method=TokenMethod(token="pm_card_visa"),
    )


async def outbox_of(environment: Environment) -> list[dict[str, object]]:
    return await rows(environment.databases["staff"], "SELECT * FROM outbox_messages")


async def letter_of(environment: Environment, letter_id: UUID) -> dict[str, object]:
    (found,) = await rows(environment.databases["staff"], f"SELECT * FROM dead_letters WHERE id = '{letter_id}'")
    return found


async def actions_of(environment: Environment) -> list[str]:
    found = await rows(environment.databases["staff"], "SELECT action FROM journal ORDER BY position")
    return [row["action"] for row in found]


# -- undo --------------------------------------------------------------------------------------------------------------------------------


async def test_a_replay_is_undone_before_it_leaves(environment: Environment, database: Database) -> None:
    (letter_id,) = await keep(database, event(1))
    before = await letter_of(environment, letter_id)
    (result,) = await dead_letter_actions.replay(database, Selection(ids=(letter_id,)), who=ANN, undo_s=10)
    assert result.ok
    assert len(await outbox_of(environment)) == 1
    undone = await second_thoughts.undo(database, letter_id, who=ANN)
    assert undone.ok, undone.text
    assert await outbox_of(environment) == []
    assert await letter_of(environment, letter_id) == before
    assert await actions_of(environment) == ["replay", "undo"]
    again = await second_thoughts.undo(database, letter_id, who=ANN)
    assert again.refusal is ActionRefusal.TOO_LATE_TO_UNDO


async def test_what_a_sweeper_has_taken_is_not_undone(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    (letter_id,) = await keep(database, event(1))
    await dead_letter_actions.replay(database, Selection(ids=(letter_id,)), who=ANN, undo_s=10)
    await execute(
        environment.databases["staff"],
        "UPDATE outbox SET sweep_after = now() - interval '1 second', created_at = now() - interval '11 seconds'",
    )
    async with environment.running("staff", assemble):
        await (await upstream.queue(QUEUE)).next()
    refused = await second_thoughts.undo(database, letter_id, who=ANN)
    assert refused.refusal is ActionRefusal.TOO_LATE_TO_UNDO
    assert refused.text.startswith("it went out at ")
    assert (await letter_of(environment, letter_id))["status"] == "replayed"


async def test_what_may_be_on_its_way_is_not_undone(environment: Environment, database: Database) -> None:
    """A sweeper has reserved it: nobody knows whether the broker has it already."""
    (letter_id,) = await keep(database, event(1))
    await dead_letter_actions.replay(database, Selection(ids=(letter_id,)), who=ANN, undo_s=10)
    await execute(
        environment.databases["staff"],
        "UPDATE outbox SET sweep_after = now() - interval '1 second', created_at = now() - interval '11 seconds'",
    )
    async with database.transaction() as tx:
        assert [len(await outbox.take_overdue(tx, lane)) for lane in Lane].count(1) == 1
    refused = await second_thoughts.undo(database, letter_id, who=ANN)
    assert refused.refusal is ActionRefusal.TOO_LATE_TO_UNDO
    assert len(await outbox_of(environment)) == 1
    assert (await letter_of(environment, letter_id))["status"] == "replayed"


async def test_a_replay_without_time_to_undo_cannot_be_undone(environment: Environment, database: Database) -> None:
    (letter_id,) = await keep(database, event(1))
    await dead_letter_actions.replay(database, Selection(ids=(letter_id,)), who=ANN)
    refused = await second_thoughts.undo(database, letter_id, who=ANN)
    assert refused.refusal is ActionRefusal.TOO_LATE_TO_UNDO
    assert len(await outbox_of(environment)) == 1


async def test_a_discarded_command_is_answered_only_after_the_time_to_undo(
    environment: Environment, database: Database
) -> None:
    (letter_id,) = await keep(database, payment("INV-1", 100))
    await dead_letter_actions.discard(database, Selection(ids=(letter_id,)), who=ANN, reason="wrong", undo_s=10)
    assert [row["type"] for row in await outbox_of(environment)] == ["remit.invoice.CloseCommand.v1"]
    assert (await second_thoughts.undo(database, letter_id, who=ANN)).ok
    assert await outbox_of(environment) == []
    assert (await letter_of(environment, letter_id))["status"] == "open"


async def test_undoing_the_discard_of_a_request_undoes_its_decision(
    environment: Environment, database: Database
) -> None:
    requested = request_of_a_payment()
    sent = encode(Draft(requested), Cause(uuid4(), "C-1", system_clock()), 0, source="invoice")
    letter = replace(
        event(1), queue="payment_gateway.requests", body=sent.body, body_bytes=len(sent.body), content_type=STRUCTURED
    )
    (letter_id,) = await keep(database, letter)
    await dead_letter_actions.discard(database, Selection(ids=(letter_id,)), who=ANN, reason="wrong", undo_s=10)
    assert (await second_thoughts.undo(database, letter_id, who=ANN)).ok
    assert await outbox_of(environment) == []
    journal = await rows(environment.databases["staff"], "SELECT action, subject FROM journal ORDER BY position")
    assert [(row["action"], row["subject"]) for row in journal] == [
        ("discard", letter_id),
        ("resolve", requested.payment_id),
        ("undo", letter_id),
        ("undo", requested.payment_id),
    ]


# -- bring back --------------------------------------------------------------------------------------------------------------------------


async def test_only_what_nobody_was_told_of_is_brought_back(environment: Environment, database: Database) -> None:
    of_event, of_command = await keep(database, event(1), payment("INV-1", 100))
    await dead_letter_actions.discard(database, Selection(), who=ANN, reason="wrong")
    assert (await second_thoughts.restore(database, of_event, who=ANN, reason="it was right")).ok
    told = await second_thoughts.restore(database, of_command, who=ANN, reason="it was right")
    assert told.refusal is ActionRefusal.TOLD_ALREADY
    assert (await letter_of(environment, of_event))["status"] == "open"
    assert (await letter_of(environment, of_command))["status"] == "discarded"


# -- edit and replay -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def letter_id(database: Database) -> UUID:
    """A command with a field that its contract does not know."""
    letter = payment("INV-1", 12_500)
    assert letter.body is not None
    content = json.loads(letter.body)
    content["data"]["mandate"] = "SEPA-2211"
    body = json.dumps(content).encode()
    (kept,) = await keep(database, replace(letter, body=body, body_bytes=len(body), reply_to="billing.answers"))
    return kept


async def allow(database: Database) -> None:
    async with database.transaction() as tx:
        await people_store.save_setting(tx, second_thoughts.EDIT_AND_REPLAY, value=True, who="cleo", now=system_clock())


async def test_nobody_edits_before_an_admin_allows_it(
    environment: Environment, database: Database, letter_id: UUID
) -> None:
    refused = await second_thoughts.edit(database, letter_id, who=ANN, reason="x", drop=["mandate"])
    assert refused.refusal is ActionRefusal.NOT_EDITABLE
    assert await outbox_of(environment) == []


async def test_an_edited_command_goes_out_under_a_new_id_and_the_old_one_is_answered(
    environment: Environment, database: Database, letter_id: UUID
) -> None:
    await allow(database)
    old = await letter_of(environment, letter_id)
    result = await second_thoughts.edit(database, letter_id, who=ANN, reason="it came too soon", drop=["mandate"])
    assert result.ok, result.text
    assert result.entry is not None
    sent = {row["type"]: row for row in await outbox_of(environment)}
    new, closing = sent["remit.invoice.PayInvoice.v1"], json.loads(sent["remit.invoice.CloseCommand.v1"]["body"])  # type: ignore[arg-type]
    new_id = derived_id(result.entry, "edited")
    body = json.loads(new["body"])  # type: ignore[arg-type]
    assert (body["id"], body["causationid"], new["message_id"], new["reply_to"]) == (
        str(new_id),
        str(old["event_id"]),
        str(new_id),
        "billing.answers",
    )
    assert "mandate" not in body["data"]
    assert (body["data"]["amount_minor"], body["data"]["payment_id"]) == (12_500, str(old["payment_id"]))
    assert (closing["data"]["command_id"], closing["data"]["replaced_by"]) == (str(old["event_id"]), str(new_id))
    after = await letter_of(environment, letter_id)
    assert after["status"] == "discarded"
    (again,) = await dead_letter_actions.replay(database, Selection(ids=(letter_id,)), who=ANN)
    assert again.refusal is ActionRefusal.ALREADY_DISCARDED
    assert (await second_thoughts.restore(database, letter_id, who=ANN, reason="x")).refusal is not None


@pytest.mark.parametrize("field", ["amount_minor", "currency", "payment_id", "invoice_id", "method"])
async def test_what_says_whose_money_goes_where_is_locked(
    environment: Environment, database: Database, letter_id: UUID, field: str
) -> None:
    await allow(database)
    set_ = await second_thoughts.edit(database, letter_id, who=ANN, reason="x", changes={field: "1"})
    dropped = await second_thoughts.edit(database, letter_id, who=ANN, reason="x", drop=[field])
    assert {set_.refusal, dropped.refusal} == {ActionRefusal.FIELD_LOCKED}
    assert await outbox_of(environment) == []


async def test_what_breaks_the_contract_is_refused_with_its_schema(
    environment: Environment, database: Database
) -> None:
    """No service would read the new message either."""
    await allow(database)
    void = VoidInvoice(invoice_id="INV-1", reason="a duplicate")
    sent = encode(Draft(void), Cause(uuid4(), "C-1", system_clock()), 0, source="/billing")
    letter = replace(payment("INV-1", 100), body=sent.body, body_bytes=len(sent.body), type=void.wire_name)
    (letter_id,) = await keep(database, letter)
    refused = await second_thoughts.edit(database, letter_id, who=ANN, reason="x", drop=["reason"])
    assert refused.refusal is ActionRefusal.SCHEMA
    assert "reason" in refused.text
    assert (await letter_of(environment, letter_id))["status"] == "open"
    assert await outbox_of(environment) == []


async def test_what_no_service_would_read_is_not_sent(environment: Environment, database: Database) -> None:
    await allow(database)
    (letter_id,) = await keep(database, event(1))
    refused = await second_thoughts.edit(database, letter_id, who=ANN, reason="x")
    assert refused.refusal is ActionRefusal.NOT_EDITABLE
    assert await outbox_of(environment) == []


# -- groups --------------------------------------------------------------------------------------------------------------------------------


async def test_groups_are_counted_whatever_changes_the_letters(environment: Environment, database: Database) -> None:
    first, second, other = await keep(database, event(1), event(2), payment("INV-1", 100))
    url = environment.databases["staff"]

    async def counts() -> list[tuple[int, int, int, int]]:
        found = await rows(
            url, "SELECT open, replayed, discarded, hourly FROM dead_letter_groups ORDER BY error_type, type"
        )
        return [(row["open"], row["replayed"], row["discarded"], sum(row["hourly"])) for row in found]

    assert await counts() == [(2, 0, 0, 2), (1, 0, 0, 1)]
    await dead_letter_actions.replay(database, Selection(ids=(first,)), who=ANN, undo_s=10)
    await dead_letter_actions.discard(database, Selection(ids=(other,)), who=ANN, reason="x")
    assert await counts() == [(1, 1, 0, 2), (0, 0, 1, 1)]
    await second_thoughts.undo(database, first, who=ANN)
    await execute(
        url,
        f"UPDATE dead_letters SET error_type = 'TypeError', queue = 'invoice.commands', type = NULL WHERE id = '{second}'",
    )
    assert await counts() == [(1, 0, 0, 2), (0, 0, 1, 1), (1, 0, 0, 0)]
    # as the build before inserts: without any of the new columns
    await execute(
        url,
        "INSERT INTO dead_letters (id, queue, origin, reason, tries, generation, headers, body_bytes, withheld, replays, seen, status,"
        " first_seen, last_seen) SELECT gen_random_uuid(), 'saga.events', 'remit', 'not_json', 1, 0, '{}', 1, 'card_data', 0, 1, 'open',"
        " now(), now()",
    )
    (added,) = await rows(
        url,
        "SELECT g.open, d.may_charge FROM dead_letter_groups g JOIN dead_letters d USING (grp) WHERE g.reason = 'not_json'",
    )
    assert (added["open"], added["may_charge"]) == (1, None)
