"""The staff desk and what it begins (row 21): killed in the middle of a run of many messages, and clicked twice. A program with
a token clicks, as a person does."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import httpx

from deploy.local.desk import DESK
from services.staff import store
from services.staff.actions import accounts
from services.staff.dead_letters import DeadLetter, arrive
from services.staff.people import Role, at_terminal
from services.staff.runs import RATE_MAX, ItemState
from shared.ids import new_id
from shared.persistence.database import Database
from shared.records import replace
from tests.faults.crash import make_dead_letter
from tests.faults.ready import until_ready
from tests.faults.recovery import SERVICE_WITHIN_S, recovery_s
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.support.databases import rows
from tests.support.ports import free_port

FAMILY: Final = "desk"
LETTERS: Final = 400
CHUNK: Final = 500
RUN_WITHIN_S: Final = 180.0
POLL_S: Final = 0.1

# -- messages that failed --------------------------------------------------------------------------------------------------------------


async def fail_many(testbed: Testbed, count: int) -> list[UUID]:
    """Store so many failed messages: one that really failed, and others like it, each a command of its own."""
    example = await make_dead_letter(testbed)
    database = await Database.open(testbed.database("staff"), name="faults", connections_max=1)
    try:
        async with database.connection() as connection:
            record = await store.find_letter(connection, example)
        assert record is not None
        letters = [_like(record.letter, testbed, number) for number in range(1, count)]
        for start in range(0, len(letters), CHUNK):
            now = datetime.now(UTC)
            async with database.transaction() as tx:
                await store.save_letters(
                    tx, [arrive(None, one, now) for one in letters[start : start + CHUNK]], locked=()
                )
    finally:
        await database.close()
    return [example, *(letter.id for letter in letters)]


def _like(letter: DeadLetter, testbed: Testbed, number: int) -> DeadLetter:
    """A command that issues another invoice. The audit knows that it was sent."""
    assert letter.body is not None
    command_id, invoice_id = new_id(), f"many-{testbed.name}-{new_id()}-{number}"
    event = json.loads(letter.body)
    event |= {"id": str(command_id), "data": {**event["data"], "invoice_id": invoice_id}}
    body = json.dumps(event).encode()
    testbed.note_sent(command_id, event["type"])
    return replace(
        letter, id=new_id(), body=body, body_bytes=len(body), message_id=str(command_id), event_id=command_id,
        correlation_id=str(command_id), invoice_id=invoice_id,
    )  # fmt: skip


# -- the desk --------------------------------------------------------------------------------------------------------------------------


class Clicker:
    """A program that clicks on the desk. Each click has an id of its own, so that it can be sent again."""

    def __init__(self, testbed: Testbed, port: int, token: str) -> None:
        self.testbed, self.port = testbed, port
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/api/v1", headers={"authorization": f"Bearer {token}"}, timeout=30
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, address: str, once: UUID, **fields: Any) -> httpx.Response:
        """Send a click, whatever is answered. Raises httpx.TransportError if nothing is."""
        return await self._client.post(address, json={"once": str(once), **fields})

    async def click(self, address: str, **fields: Any) -> dict[str, Any]:
        """Send a click until it is answered: while the desk is away, or its database, again under the same id."""
        once, give_up_at = new_id(), time.monotonic() + RUN_WITHIN_S
        while time.monotonic() < give_up_at:
            try:
                answer = await self.send(address, once, **fields)
            except httpx.TransportError:
                await asyncio.sleep(POLL_S)
                continue
            if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                assert answer.status_code == httpx.codes.OK, f"{address}: {answer.text}"
                return dict(answer.json())
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"{address} was not answered within {RUN_WITHIN_S:g} s")

    async def get(self, address: str) -> dict[str, Any]:
        """The view of a page."""
        answer = await self._client.get(address)
        assert answer.status_code == httpx.codes.OK, f"{address}: {answer.text}"
        return dict(answer.json())


async def _start_desk(testbed: Testbed, port: int, **settings: str) -> None:
    named: dict[str, Any] = {"program": "services.staff.desk", "DESK_PORT": str(port), **settings}
    await testbed.start(DESK, **named)
    await until_ready(testbed, DESK)


@asynccontextmanager
async def open_clicker(testbed: Testbed) -> AsyncIterator[Clicker]:
    """A desk, and a program with a token that may replay."""
    database = await Database.open(testbed.database("staff"), name="faults", connections_max=1)
    try:
        name = f"faults-{testbed.trials}-{new_id().hex[-6:]}"
        made = await accounts.make_token(database, name, roles=(Role.REPLAYER,), days=1, who=at_terminal("faults"))
    finally:
        await database.close()
    assert made.secret is not None, made.result.text
    port = free_port()
    await _start_desk(testbed, port)
    clicker = Clicker(testbed, port, made.secret)
    try:
        yield clicker
    finally:
        await clicker.close()
        await testbed.stop(DESK)


# -- a run -----------------------------------------------------------------------------------------------------------------------------


async def _states(testbed: Testbed, no: int) -> "Counter[ItemState]":
    """How many messages of the run are in which state; empty while the database is away."""
    query = "SELECT state, count(*) AS items FROM replay_items WHERE run_no = $1 GROUP BY state"
    found = await testbed.ask_database(lambda: rows(testbed.database("staff"), query, no))
    return Counter({ItemState(row["state"]): row["items"] for row in found or ()})


async def _until_sent(testbed: Testbed, no: int, count: int) -> None:
    async def sent() -> bool:
        states = await _states(testbed, no)
        return bool(states) and states[ItemState.WAITS] + count <= states.total()

    await testbed.until(sent, what=f"R-{no} to send {count} messages", within_s=RUN_WITHIN_S)


async def _until_state(testbed: Testbed, no: int, *states: str) -> None:
    query = "SELECT 1 FROM replay_runs WHERE no = $1 AND state = ANY($2::text[])"

    async def there() -> bool:
        return bool(await testbed.ask_database(lambda: rows(testbed.database("staff"), query, no, list(states))))

    await testbed.until(there, what=f"R-{no} is {' or '.join(states)}", within_s=RUN_WITHIN_S)


async def _begin(clicker: Clicker, ids: Sequence[UUID]) -> int:
    """Preview these messages, try one, wait for it. Returns the number of the run."""
    listed = await clicker.click("/replays", id=[str(id_) for id_ in ids])
    no = int(listed["location"].rpartition("/")[2])
    await clicker.click(f"/replays/{no}/try", reason="a trial", rate=RATE_MAX)
    await _until_state(clicker.testbed, no, "waiting", "done")
    return no


async def _end(clicker: Clicker, no: int, count: int) -> None:
    """Wait for the end of the run, as a person does: who goes on if it stopped because nothing was heard for a while. Then each message was
    handled, and once: the audit follows each one."""
    testbed = clicker.testbed
    while True:
        await _until_state(testbed, no, "done", "halted")
        if (await clicker.get(f"/replays/{no}"))["state"] == "done":
            break
        await clicker.click(f"/replays/{no}/leave-out")
    shown: Counter[ItemState] = Counter()

    async def all_handled() -> bool:
        nonlocal shown
        shown = await _states(testbed, no)
        return shown[ItemState.HANDLED] + shown[ItemState.DUPLICATE] == count

    await testbed.until(
        all_handled, what=f"{count} messages of R-{no} to be handled, and not {shown}", within_s=RUN_WITHIN_S
    )


async def _kill_desk(clicker: Clicker) -> None:
    await clicker.testbed.kill(DESK)
    await _start_desk(clicker.testbed, clicker.port)


async def _sender_killed(testbed: Testbed, note: Note) -> None:
    """The staff service is killed in the middle of a run of many messages. The run goes on where it was, and sends each once."""
    ids = await fail_many(testbed, LETTERS)
    async with open_clicker(testbed) as clicker:
        no = await _begin(clicker, ids)
        await clicker.click(f"/replays/{no}/rest", rate=RATE_MAX)
        await _until_sent(testbed, no, LETTERS // 2)
        await testbed.kill("staff")
        await testbed.start("staff")
        note.fired()
        note.mended()
        note.recovered(await recovery_s(testbed, "staff"), within_s=SERVICE_WITHIN_S)
        await _end(clicker, no, LETTERS)


async def _clicked_twice(testbed: Testbed, note: Note) -> None:
    """The same click comes twice at once, and again after the desk was started anew: one message leaves, and all three read the same."""
    (letter,) = await fail_many(testbed, 1)
    async with open_clicker(testbed) as clicker:
        address, once = f"/dead-letters/{letter}/replay", new_id()
        answers = list(await asyncio.gather(clicker.send(address, once), clicker.send(address, once)))
        await _kill_desk(clicker)
        answers.append(await clicker.send(address, once))
        note.fired(len(answers) - 1)
        note.mended()
        assert {one.status_code for one in answers} == {httpx.codes.OK}, [one.text for one in answers]
        assert len({one.text for one in answers}) == 1
        entries = await rows(
            testbed.database("staff"), "SELECT 1 FROM journal WHERE action = 'replay' AND subject = $1", letter
        )
        assert len(entries) == 1
        await _until_handled(testbed, [letter])


async def _until_handled(testbed: Testbed, ids: Sequence[UUID]) -> None:
    query = "SELECT 1 FROM dead_letters WHERE id = ANY($1::uuid[]) AND outcome IN ('handled', 'duplicate')"

    async def handled() -> bool:
        return len(await rows(testbed.database("staff"), query, list(ids))) == len(ids)

    await testbed.until(handled, what=f"{len(ids)} replayed messages to be handled")


# -- the trials ------------------------------------------------------------------------------------------------------------------------


def trials() -> Sequence[Trial]:
    """A run whose sender is killed, and a click that comes more than once."""
    actions = {"run:staff-killed": _sender_killed, "click:twice": _clicked_twice}
    touches = frozenset({"invoice", "staff"})
    return [
        Trial(
            f"{FAMILY}/{name}",
            FAMILY,
            str(run.__doc__),
            run,
            estimate_s=45.0,
            touches=touches,
            short=run is _sender_killed,
        )
        for name, run in actions.items()
    ]
