"""Two people act at once, or one person twice (rows 13 and 14): one of them wins, the other is told, and money moves once."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

from deploy.cli.output import REFUSED
from deploy.demo.scenes import AMOUNT_MINOR, CURRENCY, reject_one
from shared.contracts.invoice import IssueInvoice
from shared.ids import new_id
from tests.faults.crash import a_case, make_dead_letter
from tests.faults.testbed import CommandDone, Testbed
from tests.faults.trial import Note, Trial
from tests.support.databases import rows

FAMILY: Final = "people"


async def _at_once(testbed: Testbed, *commands: tuple[str, ...]) -> list[CommandDone]:
    """Run these commands of `remit`, all at the same time."""
    running = [await testbed.remit(*command) for command in commands]
    return list(await asyncio.gather(*(one.result() for one in running)))


def replay(dead_letter: UUID, who: str) -> tuple[str, ...]:
    """The arguments of `remit` that replay a dead letter."""
    return "dead-letters", "replay", str(dead_letter), "--yes", "--who", who


def _resolve(payment_id: UUID, version: int, who: str) -> tuple[str, ...]:
    words = ("--evidence", "its books show no charge", "--reason", "fault run", "--who", who)
    return "payments", "resolve", str(payment_id), "not_charged", "--version", str(version), *words


def _one_was_first(done: Sequence[CommandDone]) -> None:
    codes = sorted(one.code for one in done)
    assert codes == [0, *[REFUSED] * (len(done) - 1)], f"one does it and the others are told, and not {done}"


async def replayed_by_two(testbed: Testbed, note: Note) -> None:
    """Two people replay the same dead letter at once; afterwards a third does."""
    dead_letter = await make_dead_letter(testbed)
    _one_was_first(await _at_once(testbed, replay(dead_letter, "one"), replay(dead_letter, "another")))
    (late,) = await _at_once(testbed, replay(dead_letter, "a third"))
    assert late.code == REFUSED
    note.fired(3)


async def replayed_beside_its_sender(testbed: Testbed, note: Note) -> None:
    """Replay a dead letter while its sender, who got no answer, sends the command again under its id."""
    command = IssueInvoice(
        invoice_id=f"beside-{new_id()}", customer_id="C-1", amount_minor=AMOUNT_MINOR, currency=CURRENCY
    )
    command_id = new_id()
    event = {
        "specversion": "1.0",
        "id": str(command_id),
        "type": command.wire_name,
        "source": f"/{testbed.name}",
        "data": command.model_dump(mode="json"),
    }
    await testbed.stop("invoice")
    testbed.note_sent(command_id, command.wire_name)
    await reject_one(testbed.system.stack.rabbitmq_url, command, json.dumps(event).encode(), command_id)
    await testbed.start("invoice")
    query = "SELECT id FROM dead_letters WHERE message_id = $1"

    async def stored() -> bool:
        return bool(await rows(testbed.database("staff"), query, str(command_id)))

    await testbed.until(stored, what="the dead letter")
    (dead_letter,) = await rows(testbed.database("staff"), query, str(command_id))
    (replayed,), asked = await asyncio.gather(
        _at_once(testbed, replay(dead_letter["id"], "faults")), testbed.upstream.ask(command, command_id=command_id)
    )
    assert replayed.code == 0
    assert asked[1].answer == "accepted"
    note.fired()


async def decided_by_two(testbed: Testbed, note: Note) -> None:
    """Two people decide about the same payment at once, on the same evidence."""
    payment_id, version = await a_case(testbed)
    _one_was_first(
        await _at_once(testbed, _resolve(payment_id, version, "one"), _resolve(payment_id, version, "another"))
    )
    note.fired(2)


async def decided_while_asked(testbed: Testbed, note: Note) -> None:
    """A person decides while another has the gateway asked. The decision holds, or the person is told that the case has changed."""
    payment_id, version = await a_case(testbed)
    asked, decided = await _at_once(
        testbed, ("payments", "ask", str(payment_id), "--who", "one"), _resolve(payment_id, version, "another")
    )
    assert asked.code in {0, REFUSED}
    assert decided.code in {0, REFUSED}
    note.remark(f"asked: exit code {asked.code}; decided: exit code {decided.code}")
    note.fired(2)


def trials() -> Sequence[Trial]:
    """Each trial with the usual workload."""
    actions: dict[str, Callable[[Testbed, Note], Awaitable[None]]] = {
        "replay:by-two": replayed_by_two,
        "replay:beside-its-sender": replayed_beside_its_sender,
        "resolve:by-two": decided_by_two,
        "resolve:while-asked": decided_while_asked,
    }
    return [_trial(name, action) for name, action in actions.items()]


def _trial(name: str, action: Callable[[Testbed, Note], Awaitable[None]]) -> Trial:
    async def run(testbed: Testbed, note: Note) -> None:
        await action(testbed, note)
        note.mended()

    return Trial(
        f"{FAMILY}/{name}", FAMILY, str(action.__doc__), run, estimate_s=20.0, touches=frozenset({"invoice", "staff"})
    )
