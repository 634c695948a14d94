"""The servers themselves fail under load: killed, no memory or disk, a queue full or deleted, a clock an hour wrong (rows 2, 4, 6, 11)."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aio_pika

from deploy.local.postgres import psql
from deploy.local.stack import SERVICES, Service
from shared.persistence.database import AWAY_ERRORS
from tests.faults.ready import until_not_ready, until_ready
from tests.faults.recovery import SERVER_WITHIN_S, SERVICE_WITHIN_S, recovery_s
from tests.faults.testbed import LogMark, Testbed
from tests.faults.trial import Note, NotPossibleHereError, Trial
from tests.support.databases import execute, rows

FAMILY: Final = "servers"

BROKER: Final = ("publisher", "consumer ")
DATABASE: Final = ("database", "charging")
HOUR_S: Final = 3_600
AWAY_S: Final = 75.0
"""Some minutes: longer than every timeout, back-off and lease of these trials."""
ALONE_ESTIMATE_S: Final = 60.0
BESIDE_ESTIMATE_S: Final = 35.0
NO_SPACE: Final = "No space left on device"
DISK_BYTES: Final = 96 * 1024**2
"""A service's database needs about 10 MB; the trial fills the rest."""
FILLED_BY: Final[dict[str, Service]] = {
    "saga.events": "invoice",
    "payment_gateway.requests": "invoice",
    "invoice.settlement": "saga",
    "staff.cases": "payment_gateway",
}
CONSUMED_BY: Final[dict[str, Service]] = {
    "saga.events": "saga",
    "payment_gateway.requests": "payment_gateway",
    "invoice.settlement": "invoice",
    "staff.cases": "staff",
}
"""The queues to delete. Not `invoice.commands`: its senders have confirms, and cannot know that they must publish again."""

# -- killed ----------------------------------------------------------------------------------------------------------------------------


async def _killed(testbed: Testbed, note: Note, *, broker: bool, database: bool, away_s: float = 0.0) -> None:
    """kill -9 under load; started again when every service has noticed, or later."""
    stack = testbed.system.stack
    servers = [server for server, hit in ((stack.broker, broker), (stack.database, database)) if hit]
    testbed.play()
    await testbed.until_under_load()
    for server in servers:
        await asyncio.to_thread(server.kill)
    note.fired(len(servers))
    for service in SERVICES:
        await until_not_ready(testbed, service, (*BROKER * broker, *DATABASE * database))
    await asyncio.sleep(away_s)
    for server in servers:
        await asyncio.to_thread(server.start)
    await _again(testbed, note)


async def _again(testbed: Testbed, note: Note) -> None:
    """The servers are back: the services resume unaided, and in time."""
    note.mended()
    back_at = time.monotonic()
    testbed.play()
    note.recovered(await recovery_s(testbed, since=back_at), within_s=SERVER_WITHIN_S)


async def _service_killed(testbed: Testbed, note: Note, *, service: Service) -> None:
    """kill -9 under load, wherever the service is at that moment; it is started again at once."""
    testbed.play()
    await testbed.until_under_load()
    await testbed.kill(service)
    await testbed.start(service)
    note.fired()
    note.mended()
    testbed.play()
    note.recovered(await recovery_s(testbed, service), within_s=SERVICE_WITHIN_S)


# -- no memory or disk, full queue, deleted queue --------------------------------------------------------------------------------------


MEMORY_ALARM: Final = ("set_vm_memory_high_watermark", "0")
DISK_ALARM: Final = ("set_disk_free_limit", "100000GB")
NO_ALARM: Final = {MEMORY_ALARM: ("set_vm_memory_high_watermark", "0.4"), DISK_ALARM: ("set_disk_free_limit", "50MB")}
"""RabbitMQ's own limits. Newer versions allow more memory, and no trial comes near it."""


async def _alarm(testbed: Testbed, note: Note, *, raised: tuple[str, str]) -> None:
    """The broker reads from no publisher, and confirms nothing meanwhile."""
    ctl = testbed.system.stack.broker.ctl
    testbed.play()
    await testbed.until_under_load()
    await asyncio.to_thread(ctl, *raised)
    try:
        testbed.play()
        await until_not_ready(testbed, "invoice", BROKER)
        states = await asyncio.to_thread(ctl, "--silent", "list_connections", "state")
        note.fired(sum(state in {"blocked", "blocking"} for state in states.split()))
    finally:
        await asyncio.to_thread(ctl, *NO_ALARM[raised])
    await _again(testbed, note)


async def _full(testbed: Testbed, note: Note, *, queue: str, publisher: Service) -> None:
    """A policy lowers the bound of one queue while its consumer is down (of argument and policy the lower bound counts). Publishers are
    refused, and keep their messages."""
    ctl = testbed.system.stack.broker.ctl
    policy = ("--vhost", testbed.vhost, "full")
    definition = (f"^{queue}$", '{"max-length": 1}', "--apply-to", "queues")
    await asyncio.to_thread(ctl, "set_policy", *policy, *definition)
    try:
        testbed.play()
        await testbed.until_under_load()
        if queue == "invoice.settlement":
            await _hold_back(testbed, publisher)
        await testbed.stop(CONSUMED_BY[queue])
        testbed.signal(publisher, signal.SIGCONT)
        testbed.play()
        refused = await _rows_appear(testbed, publisher, "SELECT id FROM outbox WHERE refusals > 0")
    finally:
        await asyncio.to_thread(ctl, "clear_policy", *policy)
        testbed.signal(publisher, signal.SIGCONT)
        await testbed.start(CONSUMED_BY[queue])
    note.fired(refused)
    note.mended()


async def _hold_back(testbed: Testbed, publisher: Service) -> None:
    """Stop the consumer until an outcome waits for it. Without the invoice service no payment begins, and all others may end."""
    testbed.signal(publisher, signal.SIGSTOP)
    before = len(
        await testbed.until_answered(lambda: rows(testbed.database("payment_gateway"), "SELECT 1 FROM outcomes"))
    )
    testbed.play()
    await _rows_appear(testbed, "payment_gateway", f"SELECT message_id FROM outcomes OFFSET {before}")


async def _rows_appear(testbed: Testbed, service: Service, query: str) -> int:
    """Wait for rows; returns how many there were."""
    found = 0

    async def some() -> bool:
        nonlocal found
        found = len(await testbed.ask_database(lambda: rows(testbed.database(service), query)) or ())
        return found > 0

    await testbed.until(some, what=query)
    return found


async def _deleted(testbed: Testbed, note: Note, *, queue: str, consumer: Service) -> None:
    """The queue is deleted with its messages. Its consumer notices. Once the topology is applied again, pending work is announced again."""
    if queue == "staff.cases":
        await testbed.restart("payment_gateway", GATEWAY_REMIND_S="3")
    testbed.play()
    await testbed.until_under_load()
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        gone = await channel.queue_delete(queue, timeout=10)
    note.fired()
    testbed.lost.add(queue)
    note.remark(f"{gone.message_count or 0} messages were waiting in it")
    await until_not_ready(testbed, consumer, (f"consumer {queue}",))
    await testbed.apply_topology()
    note.mended()
    await until_ready(testbed, consumer)
    testbed.play()


# -- full disk -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of `DISK_BYTES` in memory that every user may enter. It is unmounted at the end, even if we are killed. Raises
    NotPossibleHereError if this machine does not let us mount."""
    folder = Path(tempfile.mkdtemp(prefix="remit-small-disk-"))
    folder.chmod(0o755)
    script = (
        f"mount -t tmpfs -o size={DISK_BYTES} remit '{folder}' && echo mounted && cat >/dev/null; umount -l '{folder}'"
    )
    with subprocess.Popen(
        ("sh", "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as mounted:
        assert mounted.stdout is not None
        try:
            if mounted.stdout.readline() != b"mounted\n":
                raise NotPossibleHereError("this machine does not let us mount a small file system")
            yield folder
        finally:
            assert mounted.stdin is not None
            mounted.stdin.close()
            mounted.wait()
            shutil.rmtree(folder, ignore_errors=True)


async def _full_disk(testbed: Testbed, note: Note, *, service: Service) -> None:
    """The service's database is on a disk of its own, which fills up: inserts that need another page are refused (SQLSTATE 53100)."""
    with small_disk() as disk:
        tablespace = f"small_{service}_{os.getpid()}"
        home, balloon = disk / "tablespace", disk / "balloon"
        await testbed.stop(service)
        await asyncio.to_thread(_make_tablespace, testbed, tablespace, home)
        await _move(testbed, service, tablespace)
        await testbed.start(service)
        try:
            await until_ready(testbed, service)
            log = testbed.log_of(service)
            await asyncio.to_thread(_fill, balloon)
            await _until_full(testbed, service)
            note.fired(log.text.count("DiskFullError"))
            await asyncio.to_thread(balloon.unlink)
            note.mended()
            await until_ready(testbed, service)
            await testbed.played()
        finally:
            balloon.unlink(missing_ok=True)
            await testbed.stop(service)
            await _move(testbed, service, "pg_default")
            await asyncio.to_thread(psql, testbed.system.stack.postgres_url, f"DROP TABLESPACE {tablespace}")
            await testbed.start(service)


async def _until_full(testbed: Testbed, service: Service) -> None:
    """Play until the database refuses a row: at first, rows still fit into pages that exist."""
    log = testbed.log_of(service)

    async def refused() -> bool:
        if not testbed.playing:
            testbed.play(rounds=2)
        return "DiskFullError" in log.text

    await testbed.until(refused, what="the database to refuse an insert")


def _make_tablespace(testbed: Testbed, name: str, home: Path) -> None:
    home.mkdir()
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")  # if we are root, our PostgreSQL runs as this user
    psql(testbed.system.stack.postgres_url, f"CREATE TABLESPACE {name} LOCATION '{home}'")


async def _move(testbed: Testbed, service: Service, tablespace: str) -> None:
    """Move a database. Nobody may be connected meanwhile, so other sessions are ended; our own looks at the databases try again."""
    url = testbed.system.stack.postgres_url
    name = unquote(urlsplit(testbed.database(service)).path.removeprefix("/"))

    async def move() -> bool:
        await execute(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await execute(url, f'ALTER DATABASE "{name}" SET TABLESPACE {tablespace}')
        return True

    async def moved() -> bool:
        return await testbed.ask_database(move) is True

    await testbed.until(moved, what=f"{name} to be moved to {tablespace}")


def _fill(balloon: Path) -> None:
    """Write until the disk has no room left."""
    with balloon.open("wb", buffering=0) as file:
        for size in (1024**2, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


async def _full_wal(testbed: Testbed, note: Note) -> None:
    """The write-ahead log of all databases is on a disk of its own, which fills up. PostgreSQL then stops, and cannot start again before
    there is room (PostgreSQL documentation, "Disk Full Failure")."""
    stack = testbed.system.stack
    url = stack.postgres_url
    with small_disk() as disk:
        data = Path((await asyncio.to_thread(psql, url, "SHOW data_directory")).strip())
        log, said = data / "pg_wal", LogMark(data.parent / "log", 0)
        home, balloon = disk / "pg_wal", disk / "balloon"
        await _move_folder(testbed, log, home)
        try:
            await until_ready(testbed)
            testbed.play()
            await testbed.until_under_load()
            await asyncio.to_thread(_fill, balloon)
            testbed.play()
            await _until_no_segment_is_left(testbed)
            for service in SERVICES:
                await until_not_ready(testbed, service, DATABASE)
            note.fired(said.text.count(NO_SPACE))
            balloon.unlink()
            await asyncio.to_thread(stack.database.kill)
            await asyncio.to_thread(stack.database.start)
            await _again(testbed, note)
            await testbed.until_drained()
        finally:
            balloon.unlink(missing_ok=True)
            await _move_folder(testbed, log, home, back=True)


async def _move_folder(testbed: Testbed, folder: Path, home: Path, *, back: bool = False) -> None:
    """Move a folder of PostgreSQL's and leave a link in its place, or move it back. The server is down meanwhile."""
    database = testbed.system.stack.database
    await asyncio.to_thread(database.kill)
    await asyncio.to_thread(_take_back if back else _put_elsewhere, folder, home)
    await asyncio.to_thread(database.start)


def _put_elsewhere(folder: Path, home: Path) -> None:
    shutil.move(folder, home)
    _give_to_owner_of(folder.parent, home)
    folder.symlink_to(home)


def _take_back(folder: Path, home: Path) -> None:
    folder.unlink()
    shutil.copytree(home, folder)
    _give_to_owner_of(folder.parent, folder)


def _give_to_owner_of(model: Path, folder: Path) -> None:
    """Give the folder to the owner of `model`: a move between file systems copies, and a copy belongs to the user who copied."""
    owner = model.stat()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


async def _until_no_segment_is_left(testbed: Testbed) -> None:
    """Begin one segment of the log after another, besides what the services write, until the server has stopped."""
    url = testbed.system.stack.postgres_url

    async def given_up() -> bool:
        try:
            await execute(url, "SELECT pg_logical_emit_message(true, 'faults', repeat('x', 100000)), pg_switch_wal()")
        except AWAY_ERRORS:
            return True
        return False

    await testbed.until(given_up, what="PostgreSQL stops because its log has no room")


# -- a wrong clock ---------------------------------------------------------------------------------------------------------------------


async def _clock(testbed: Testbed, note: Note, *, service: Service, off_s: int) -> None:
    log = testbed.log_of(service)
    await testbed.restart(service, REMIT_FAULT_CLOCK_S=str(off_s))
    await testbed.until_logged(log, "clock_is_off")
    testbed.play()
    await testbed.played()
    note.fired()
    await testbed.restart(service)
    note.mended()
    testbed.play()


# -- the trials ------------------------------------------------------------------------------------------------------------------------

Run = Callable[[Testbed, Note], Awaitable[None]]


def trials() -> Sequence[Trial]:
    """All trials. Servers that other testbeds use are hit only on a stack of the trial's own."""
    made = [
        _alone("broker:killed", "kill -9 of RabbitMQ", partial(_killed, broker=True, database=False), short=True),
        _alone("database:killed", "kill -9 of PostgreSQL", partial(_killed, broker=False, database=True), short=True),
        _alone("both:killed", "kill -9 of RabbitMQ and PostgreSQL at once", partial(_killed, broker=True, database=True)),
        _alone(
            "database:away",
            f"PostgreSQL is away for {AWAY_S:g} s: answers of the gateway wait for it",
            partial(_killed, broker=False, database=True, away_s=AWAY_S),
            estimate_s=ALONE_ESTIMATE_S + AWAY_S,
        ),
        _alone("database:full_wal", "the disk of PostgreSQL's write-ahead log is full: it stops", _full_wal),
        _alone("broker:memory_alarm", "RabbitMQ has no memory left: publishers are blocked", partial(_alarm, raised=MEMORY_ALARM)),
        _alone("broker:disk_alarm", "RabbitMQ has no disk left: publishers are blocked", partial(_alarm, raised=DISK_ALARM)),
    ]  # fmt: skip
    for queue, publisher in FILLED_BY.items():
        run = partial(_full, queue=queue, publisher=publisher)
        made.append(_beside(f"{queue}:full", f"{queue} is full", run, SERVICES, random=True))
    for queue, consumer in CONSUMED_BY.items():
        run = partial(_deleted, queue=queue, consumer=consumer)
        short = queue == "payment_gateway.requests"
        made.append(_beside(f"{queue}:deleted", f"{queue} is deleted, and applied again", run, SERVICES, short=short))
    for service in SERVICES:
        run = partial(_service_killed, service=service)
        made.append(_beside(f"{service}:killed", f"kill -9 of {service} under load", run, [service], random=True))
        run = partial(_full_disk, service=service)
        made.append(_beside(f"{service}:full_disk", f"the disk of {service}'s database is full", run, [service]))
        for word, off_s in (("ahead", HOUR_S), ("behind", -HOUR_S)):
            run = partial(_clock, service=service, off_s=off_s)
            injects = f"the clock of {service} is an hour {word}"
            made.append(_beside(f"{service}:clock_{word}", injects, run, [service], random=True))
    return made


def _alone(name: str, injects: str, run: Run, *, short: bool = False, estimate_s: float = ALONE_ESTIMATE_S) -> Trial:
    return Trial(f"{FAMILY}/{name}", FAMILY, injects, run, estimate_s=estimate_s, alone=True, short=short)


def _beside(
    name: str, injects: str, run: Run, touches: Sequence[str], *, random: bool = False, short: bool = False
) -> Trial:
    return Trial(
        f"{FAMILY}/{name}",
        FAMILY,
        injects,
        run,
        estimate_s=BESIDE_ESTIMATE_S,
        touches=frozenset(touches),
        random=random,
        short=short,
    )
