"""The staff desk and what it begins (row 21): killed in the middle of a run of many messages, clicked twice, with a clock that jumps, a
queue that is gone, a log that somebody changed. A program with a token clicks, as a person does."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import aio_pika
import asyncpg
import httpx

from deploy.local.desk import DESK
from deploy.local.stack import SERVICES
from services.staff import store
from services.staff.actions import accounts
from services.staff.dead_letters import DeadLetter, arrive
from services.staff.people import Role, at_terminal
from services.staff.runs import LETTERS_MAX, RATE_MAX, Halt, ItemState, RunAct
from shared.ids import new_id
from shared.messaging.topology import COMMANDS
from shared.persistence.database import Database
from shared.records import replace
from tests.faults.crash import make_dead_letter
from tests.faults.ready import until_ready
from tests.faults.recovery import SERVICE_WITHIN_S, recovery_s
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.support.databases import execute, rows
from tests.support.ports import free_port

FAMILY: Final = "desk"
LETTERS: Final = 400
LETTERS_FEW: Final = 12
CHUNK: Final = 500
RUN_WITHIN_S: Final = 180.0
GONE_QUEUE: Final = "invoice.commands.of-an-earlier-build"
HOUR_S: Final = 3_600
RUN_S: Final = 20
"""How long a run takes, in seconds, at the speed that it is given."""
SLOW: Final = 5
"""Messages a second of a run that must not be over too soon."""
_WAIT_FOR_US: Final = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
_END_WAITING: Final = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"""
POLL_S: Final = 0.1
ESTIMATE_S: Final = 40.0
TOUCHED: Final = frozenset({"invoice", "staff"})

# -- messages that failed --------------------------------------------------------------------------------------------------------------


async def fail_many(testbed: Testbed, count: int, **changes: Any) -> list[UUID]:
    """Store so many failed messages: one that really failed, and others like it, each a command of its own, with these changes."""
    example = await make_dead_letter(testbed)
    database = await Database.open(testbed.database("staff"), name="faults", connections_max=1)
    try:
        async with database.connection() as connection:
            record = await store.find_letter(connection, example)
        assert record is not None
        letters = [_like(record.letter, testbed, number, changes) for number in range(1, count)]
        for start in range(0, len(letters), CHUNK):
            now = datetime.now(UTC)
            async with database.transaction() as tx:
                await store.save_letters(
                    tx, [arrive(None, one, now) for one in letters[start : start + CHUNK]], locked=()
                )
    finally:
        await database.close()
    return [example, *(letter.id for letter in letters)]


def _like(letter: DeadLetter, testbed: Testbed, number: int, changes: dict[str, Any]) -> DeadLetter:
    """A command that issues another invoice. The audit knows that it was sent, unless it failed on a queue that is not ours."""
    assert letter.body is not None
    command_id, invoice_id = new_id(), f"many-{testbed.name}-{new_id()}-{number}"
    event = json.loads(letter.body)
    event |= {"id": str(command_id), "data": {**event["data"], "invoice_id": invoice_id}}
    body = json.dumps(event).encode()
    if changes.get("queue", COMMANDS) == COMMANDS:
        testbed.note_sent(command_id, event["type"])
    return replace(
        letter, id=new_id(), body=body, body_bytes=len(body), message_id=str(command_id), event_id=command_id,
        correlation_id=str(command_id), invoice_id=invoice_id, **changes,
    )  # fmt: skip


# -- the desk --------------------------------------------------------------------------------------------------------------------------


class ChangedError(Exception):
    """What was clicked on had changed since it was shown."""


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
        """Send a click until it is answered, each time under the same id."""
        once = new_id()
        return await self._answered(address, lambda: self.send(address, once, **fields))

    async def act(self, page: str, act: str, **fields: Any) -> dict[str, Any]:
        """Click on what a page shows, as it stands now. If it changes in between, it is looked at again."""
        while True:
            with suppress(ChangedError):
                return await self.click(f"{page}/{act}", version=(await self.get(page))["version"], **fields)

    async def get(self, address: str) -> dict[str, Any]:
        """The view of a page."""
        return await self._answered(address, lambda: self._client.get(address))

    async def _answered(self, address: str, ask: Callable[[], Awaitable[httpx.Response]]) -> dict[str, Any]:
        """The answer, asked for again and again while the desk is away, or its database."""
        give_up_at = time.monotonic() + RUN_WITHIN_S
        while time.monotonic() < give_up_at:
            with suppress(httpx.TransportError):
                answer = await ask()
                if answer.status_code == httpx.codes.CONFLICT and answer.json()["code"] == "changed":
                    raise ChangedError(answer.text)
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    assert answer.status_code == httpx.codes.OK, f"{address}: {answer.text}"
                    return dict(answer.json())
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"{address} was not answered within {RUN_WITHIN_S:g} s")


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
    await clicker.act(f"/replays/{no}", "try", reason="a trial", rate=RATE_MAX)
    await _until_state(clicker.testbed, no, "waiting", "done")
    return no


async def _end(clicker: Clicker, no: int, count: int) -> None:
    """Wait for the end of the run, as a person does: who lets it go on if it stopped by itself, because nothing was heard for a while, or
    a queue was gone. Then each message was handled, and once: the audit follows each one."""
    testbed = clicker.testbed
    while True:
        await _until_state(testbed, no, "done", "halted")
        can = (await clicker.get(f"/replays/{no}"))["can"]
        if not can:
            break
        if RunAct.RESUME in can:
            await clicker.act(f"/replays/{no}", "resume")
        else:
            await clicker.act(f"/replays/{no}", "leave-out")
    shown: Counter[ItemState] = Counter()

    async def all_handled() -> bool:
        nonlocal shown
        shown = await _states(testbed, no)
        return shown[ItemState.HANDLED] + shown[ItemState.DUPLICATE] == count

    try:
        await testbed.until(all_handled, what="every message to be handled", within_s=RUN_WITHIN_S)
    except TimeoutError as error:
        raise TimeoutError(f"of {count} messages of R-{no}: {dict(shown)}") from error


Hit = Callable[[Clicker], Awaitable[None]]


async def _kill_staff(clicker: Clicker) -> None:
    await clicker.testbed.kill("staff")
    await clicker.testbed.start("staff")


async def _kill_desk(clicker: Clicker) -> None:
    await clicker.testbed.kill(DESK)
    await _start_desk(clicker.testbed, clicker.port)


async def _kill_broker(clicker: Clicker) -> None:
    broker = clicker.testbed.system.stack.broker
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.start)


async def _kill_database(clicker: Clicker) -> None:
    database = clicker.testbed.system.stack.database
    await asyncio.to_thread(database.kill)
    await asyncio.to_thread(database.start)


HITS: Final[dict[str, Hit]] = {
    "staff": _kill_staff,
    "desk": _kill_desk,
    "broker": _kill_broker,
    "database": _kill_database,
}


async def _run_hit(testbed: Testbed, note: Note, *, hits: Sequence[str], count: int) -> None:
    """Each of these is killed once while the rest of the run is sent, at equal distances."""
    ids = await fail_many(testbed, count)
    async with open_clicker(testbed) as clicker:
        no = await _begin(clicker, ids)
        began = time.monotonic()
        await clicker.act(f"/replays/{no}", "rest", rate=min(count // RUN_S, RATE_MAX))
        for number, name in enumerate(hits, start=1):
            await _until_sent(testbed, no, number * count // (len(hits) + 1))
            assert (await _states(testbed, no))[ItemState.WAITS], f"R-{no} was over before {name} was killed"
            await HITS[name](clicker)
            note.fired()
        note.mended()
        if hits == ("staff",):
            note.recovered(await recovery_s(testbed, "staff"), within_s=SERVICE_WITHIN_S)
        await _end(clicker, no, count)
        note.remark(f"{count} messages in {time.monotonic() - began:.0f} s")


async def _paused_while_away(testbed: Testbed, note: Note, *, hold: str) -> None:
    """The desk dies over a click, at a lock that we hold. The click comes again under its id: the run pauses once, and then goes on."""
    ids = await fail_many(testbed, LETTERS)
    async with open_clicker(testbed) as clicker:
        no = await _begin(clicker, ids)
        await clicker.act(f"/replays/{no}", "rest", rate=SLOW)
        await _until_sent(testbed, no, 2)
        async with _held(testbed, hold) as until_wanted:
            pausing = asyncio.create_task(clicker.click(f"/replays/{no}/pause"))
            await until_wanted()
            await testbed.kill(DESK)
            note.fired()
        await _start_desk(testbed, clicker.port)
        await pausing
        note.mended()
        query = (
            "SELECT 1 FROM journal j JOIN replay_runs r ON r.id = j.subject WHERE r.no = $1 AND j.action = 'run_pause'"
        )
        assert len(await rows(testbed.database("staff"), query, no)) == 1, "one click is one entry"
        await clicker.click(f"/replays/{no}/speed", rate=RATE_MAX)
        await clicker.act(f"/replays/{no}", "resume")
        await _end(clicker, no, LETTERS)


@asynccontextmanager
async def _held(testbed: Testbed, hold: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold what this statement locks. What is given waits until somebody wants it. At the end the sessions that wait are ended: PostgreSQL
    would let the last statement of a client that died take effect."""
    connection = await asyncpg.connect(testbed.database("staff"), timeout=10)
    try:
        async with connection.transaction():
            await connection.execute(hold)

            async def wanted() -> bool:
                return bool(await connection.fetchval(_WAIT_FOR_US))

            yield lambda: testbed.until(wanted, what=f"somebody who waits for: {hold}")
            await connection.execute(_END_WAITING)
    finally:
        await connection.close()


async def _clicked_twice(testbed: Testbed, note: Note) -> None:
    """The same click comes twice at once, and again after the desk was started anew: one message leaves, and all three read the same."""
    (letter,) = await fail_many(testbed, 1)
    async with open_clicker(testbed) as clicker:
        address, once = f"/dead-letters/{letter}/replay", new_id()
        version = (await clicker.get(f"/dead-letters/{letter}"))["version"]
        twice = (clicker.send(address, once, version=version) for _ in range(2))
        answers = list(await asyncio.gather(*twice))
        await _kill_desk(clicker)
        answers.append(await clicker.send(address, once, version=version))
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


async def _clock_jumps(testbed: Testbed, note: Note) -> None:
    """The clocks of desk and staff jump an hour ahead in the middle of a run, then an hour back. The run ends, and the log is whole."""
    ids = await fail_many(testbed, LETTERS)
    async with open_clicker(testbed) as clicker:
        no = await _begin(clicker, ids)
        await clicker.act(f"/replays/{no}", "rest", rate=SLOW)
        for number, seconds in enumerate((HOUR_S, -HOUR_S), start=1):
            await _until_sent(testbed, no, number * SLOW)
            await testbed.stop(DESK)
            await _start_desk(testbed, clicker.port, REMIT_FAULT_CLOCK_S=str(seconds))
            await testbed.restart("staff", REMIT_FAULT_CLOCK_S=str(seconds))
            note.fired()
            await clicker.click(f"/replays/{no}/speed", rate=SLOW + number)
            await _until_goes_on(testbed, no)
        await testbed.restart("staff")
        note.mended()
        await clicker.click(f"/replays/{no}/speed", rate=RATE_MAX)
        await _end(clicker, no, LETTERS)


async def _until_goes_on(testbed: Testbed, no: int) -> None:
    states = await _states(testbed, no)
    await _until_sent(testbed, no, states.total() - states[ItemState.WAITS] + 1)


async def _queue_of_an_earlier_build(testbed: Testbed, note: Note) -> None:
    """Messages failed on a queue that this build does not have. They are refused in a sentence and in the log; others are sent."""
    gone = await fail_many(testbed, LETTERS_FEW, queue=GONE_QUEUE)
    async with open_clicker(testbed) as clicker:
        version = (await clicker.get(f"/dead-letters/{gone[1]}"))["version"]
        refused = await clicker.send(f"/dead-letters/{gone[1]}/replay", new_id(), version=version)
        assert (refused.status_code, refused.json()["code"]) == (httpx.codes.CONFLICT, "no_such_queue"), refused.text
        query = (
            "SELECT 1 FROM journal WHERE action = 'refused' AND subject = $1 AND details ->> 'code' = 'no_such_queue'"
        )
        assert await rows(testbed.database("staff"), query, gone[1]), "a refusal is in the log, too"
        no = await _begin(clicker, gone)  # the first one is a real one, and only that can be sent
        note.fired(len(gone) - 1)
        note.mended()
        await _end(clicker, no, 1)
        bins = {one["bin"]: one["count"] for one in (await clicker.get(f"/replays/{no}"))["bins"]}
        assert bins == {"charges_nobody": 1, "cannot": LETTERS_FEW - 1}
        for id_ in gone[1:]:
            await clicker.act(f"/dead-letters/{id_}", "discard", reason="its queue is gone")


async def _queue_deleted(testbed: Testbed, note: Note) -> None:
    """The broker loses the queue to which a run replays. The run stops and names it; its messages are open, and leave once it is back."""
    ids = await fail_many(testbed, LETTERS_FEW)
    async with open_clicker(testbed) as clicker:
        no = await _begin(clicker, ids)
        await testbed.stop("invoice")
        connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
        async with connection:
            await (await connection.channel()).queue_delete(COMMANDS, timeout=10)
        note.fired()
        testbed.lost.add(COMMANDS)
        await clicker.act(f"/replays/{no}", "rest", rate=RATE_MAX)
        await _until_state(testbed, no, "halted")
        halt = (await clicker.get(f"/replays/{no}"))["halt"]
        assert (halt["how"], halt["why"]) == (Halt.REFUSED, COMMANDS), halt
        await testbed.apply_topology()
        await testbed.start("invoice")
        note.mended()
        await _end(clicker, no, LETTERS_FEW)


async def _chain_broken(testbed: Testbed, note: Note) -> None:
    """Somebody changes an entry of the log by hand. The desk and the audit name the entry, and messages are replayed as before."""
    (letter,) = await fail_many(testbed, 1)
    url = testbed.database("staff")
    async with open_clicker(testbed) as clicker:
        await clicker.click(f"/dead-letters/{letter}/notes", note="seen")
        await clicker.click(f"/dead-letters/{letter}/notes", note="seen again")
        query = "SELECT position, details FROM journal WHERE action = 'note' AND subject = $1 ORDER BY position LIMIT 1"
        (entry,) = await rows(url, query, letter)
        position = entry["position"]
        async with changed_entry(url, position, details={**entry["details"], "note": "never seen"}):
            note.fired()
            await _until_chain(clicker, "broken")
            assert (await clicker.get("/activity"))["chain"]["broken_at"] == position
            (found,) = [one for one in await testbed.audit() if one["check"] == "journal_unbroken"]
            assert [f"entry {position}:" in one["why"] for one in found["breaches"]] == [True], found
            await clicker.act(f"/dead-letters/{letter}", "replay")
            await _until_handled(testbed, [letter])
        note.mended()
        await _until_chain(clicker, "whole")


async def _until_chain(clicker: Clicker, state: str) -> None:
    await clicker.click("/activity/check")

    async def found() -> bool:
        return bool((await clicker.get("/activity"))["chain"]["state"] == state)

    await clicker.testbed.until(found, what=f"the desk to find the log {state}")


@asynccontextmanager
async def changed_entry(
    url: str, position: int, *, details: Any = None, hash_: bytes | None = None
) -> AsyncIterator[None]:
    """The owner of the journal changes what an entry says, or its hash, and puts it right again."""
    (kept,) = await rows(url, "SELECT details, hash FROM journal WHERE position = $1", position)
    await _rewrite(url, position, details or kept["details"], hash_ or kept["hash"])
    try:
        yield
    finally:
        await _rewrite(url, position, kept["details"], kept["hash"])


async def _rewrite(url: str, position: int, details: Any, hash_: bytes) -> None:
    await execute(url, "ALTER TABLE journal DISABLE TRIGGER USER")
    await execute(url, "UPDATE journal SET details = $2, hash = $3 WHERE position = $1", position, details, hash_)
    await execute(url, "ALTER TABLE journal ENABLE TRIGGER USER")


# -- the trials ------------------------------------------------------------------------------------------------------------------------

Run = Callable[[Testbed, Note], Awaitable[None]]
HOLDS: Final = {"before": "SELECT no FROM replay_runs FOR UPDATE", "after": "LOCK TABLE requests IN SHARE MODE"}
"""What stops the desk before it does what a click asks for, and after that, before it keeps the answer. The sender of runs waits for
neither: it passes over a row that somebody holds."""
_BESIDE: Final[dict[str, Run]] = {
    "click:twice": _clicked_twice,
    "clock:jumps": _clock_jumps,
    "queue:of-an-earlier-build": _queue_of_an_earlier_build,
    "queue:deleted": _queue_deleted,
    "log:changed-by-hand": _chain_broken,
}
SERVERS: Final = frozenset({"broker", "database"})


def trials() -> Sequence[Trial]:
    """Runs of `LETTERS` messages with one kill each, one of `LETTERS_MAX` with all of them; clicks, clocks, queues and the log."""
    short = [_run(f"run:{name}-killed", (name,), LETTERS, short=name == "staff") for name in HITS]
    long = _run(f"run:all-killed-in-{LETTERS_MAX}", tuple(HITS), LETTERS_MAX)
    dying = [
        _trial(
            f"click:desk-killed-{when}",
            f"the desk is killed {when} it does what a click asks for",
            partial(_paused_while_away, hold=hold),
        )
        for when, hold in HOLDS.items()
    ]
    beside = [_trial(name, " ".join(str(run.__doc__).split()), run) for name, run in _BESIDE.items()]
    return [*short, long, *dying, *beside]


def _run(name: str, hits: tuple[str, ...], count: int, *, short: bool = False) -> Trial:
    run = partial(_run_hit, hits=hits, count=count)
    injects = f"{', '.join(hits)} killed in the middle of a run of {count} messages"
    alone = not SERVERS.isdisjoint(hits)
    touches = frozenset(SERVICES) if alone else TOUCHED
    seconds = ESTIMATE_S + count / 100
    return Trial(
        f"{FAMILY}/{name}", FAMILY, injects, run, estimate_s=seconds, touches=touches, alone=alone, short=short
    )


def _trial(name: str, injects: str, run: Run) -> Trial:
    return Trial(f"{FAMILY}/{name}", FAMILY, injects, run, estimate_s=ESTIMATE_S, touches=TOUCHED)
