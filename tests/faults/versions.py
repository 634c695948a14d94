"""The build before and this one side by side, across a migration, as in a rolling upgrade."""

import asyncio
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aio_pika

from deploy.cli.output import REFUSED
from deploy.local.fleet import ROOT
from deploy.local.stack import RABBITMQ_VARIABLE, SERVICES, UPSTREAM, Service
from shared.contracts.invoice import IssueInvoice
from shared.messaging.apply import apply_topology, prune_topology
from shared.messaging.topology import FORMER_COMMAND_ENTRY, FORMER_EXCHANGES, WORK_QUEUES
from shared.persistence.migrate import migrate
from shared.persistence.schema import steps
from tests.faults.crash import make_dead_letter
from tests.faults.payments import invoice
from tests.faults.people import replay
from tests.faults.stranger import Stranger
from tests.faults.tap import PREFIX
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.faults.workload import MIX

FAMILY: Final = "versions"

OLD_BUILD: Final = "REMIT_OLD_BUILD"
"""The revision to upgrade from; by default the newest tag, or else the commit before this one."""
TABLES: Final[dict[Service, tuple[str, ...]]] = {
    "invoice": ("events", "invoices", "payments", "answers"),
    "payment_gateway": ("payments", "attempts", "outcomes", "decisions"),
    "saga": ("sagas", "transitions", "deadlines"),
    "staff": ("dead_letters", "cases", "journal"),
}
EVERYWHERE: Final = ("inbox", "outbox")
PAYING: Final = tuple(name for name in MIX if name != "not JSON")
"""Scenes that every build answers alike. Which unreadable commands are answered may change with the build."""

_REVISION = '''"""A column that no build knows."""

from alembic import op

revision = "{number}"
down_revision = "{before}"


def upgrade() -> None:
    for table in {tables}:
        op.execute(f"ALTER TABLE {{table}} ADD COLUMN scratch text NOT NULL DEFAULT 'new'")
'''


def _git(*arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), cwd=ROOT, check=True, capture_output=True).stdout


def old_revision() -> str:
    """The commit to upgrade from."""
    if named := os.environ.get(OLD_BUILD):
        return named
    tags = _git("tag", "--merged", "HEAD^", "--sort=-creatordate").decode().split()
    return tags[0] if tags else "HEAD^"


def _unpack(revision: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(("tar", "-x", "-C", str(folder)), input=_git("archive", revision), check=True)


def _with_a_scratch_column(service: Service, folder: Path) -> Path:
    """The service's steps, all of which a new database has, and one more."""
    ours = ROOT / "services" / service / "migrations"
    before = steps(ours)[-1].revision
    number = f"{int(before) + 1:04}"
    theirs = folder / f"{service}-migrations"
    theirs.mkdir(exist_ok=True)
    for path in ours.glob("*.py"):
        (theirs / path.name).write_bytes(path.read_bytes())
    text = _REVISION.format(number=number, before=before, tables=(*TABLES[service], *EVERYWHERE))
    (theirs / f"{number}_pre_scratch.py").write_text(text)
    return theirs


async def _add_a_column(testbed: Testbed, service: Service) -> int:
    """Migrate beyond this build; returns how many steps were applied."""
    return len(
        (
            await migrate(
                testbed.system.stack.service_database_url(service),
                _with_a_scratch_column(service, testbed.system.folder),
            )
        ).applied
    )


async def _bind_as_before(testbed: Testbed) -> None:
    """Bind as the old build did, for its messages may still be routed by those bindings; our listener is bound so, too."""
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        for exchange in FORMER_EXCHANGES:
            await channel.declare_exchange(exchange.name, exchange.type, durable=True)
        for queue in WORK_QUEUES:
            for name in (queue.name, f"{PREFIX}{queue.name}"):
                bound = await channel.get_queue(name, ensure=False)
                for binding in queue.retired:
                    await bound.bind(binding.exchange, binding.routing_key)
    await apply_topology(testbed.system.stack.rabbitmq_url)


async def _listen_as_now(testbed: Testbed) -> None:
    """Take from our listener what `remit topology prune` took from the queues beside it."""
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        for queue in WORK_QUEUES:
            bound = await channel.get_queue(f"{PREFIX}{queue.name}", ensure=False)
            for binding in queue.retired:
                await bound.unbind(binding.exchange, binding.routing_key)


async def _issue_as_before(testbed: Testbed) -> None:
    """A sender of the build before issues an invoice."""
    async with Stranger.open(testbed.system.stack.rabbitmq_url_of(UPSTREAM)) as sender:
        command_id = await sender.send(invoice(testbed), exchange=FORMER_COMMAND_ENTRY)
    testbed.note_sent(command_id, IssueInvoice.wire_name)


async def _upgrade(testbed: Testbed, note: Note) -> None:
    """The old build works, the migration runs under it, the new build joins it, then the new one works alone."""
    revision, folder = await asyncio.to_thread(old_revision), testbed.system.folder / "old"
    await asyncio.to_thread(_unpack, revision, folder)
    note.remark(
        f"upgraded from {(await asyncio.to_thread(_git, 'describe', '--always', '--tags', revision)).decode().strip()}"
    )
    restarts = testbed.restarts
    await asyncio.to_thread(testbed.system.sandbox.mode, "lenient")  # builds before 0.1.0 confirm without `off_session`
    stack = testbed.system.stack
    await _bind_as_before(testbed)
    await asyncio.to_thread(stack.permit, upgrading=True)
    for service in SERVICES:
        # The build before keeps the roles that it has, which may do more, until no instance of it is left.
        program = {"program": f"tests.faults.elsewhere {folder} {service}"}
        user = {RABBITMQ_VARIABLE: stack.rabbitmq_url_of(service)}
        await testbed.restart(service, instance=1, **(stack.environment() | user | program))
    await _issue_as_before(testbed)
    testbed.play(*PAYING)
    for service in SERVICES:
        note.fired(await _add_a_column(testbed, service))
    testbed.play(*PAYING)
    logs = {service: testbed.log_of(f"{service}-2") for service in SERVICES}
    await testbed.start("saga", instance=2)
    await testbed.until_logged(logs["saga"], "consuming")
    await testbed.stop(
        "saga"
    )  # first of all: the saga of the build before does not know the event of an overdue payment
    others: list[Service] = [service for service in SERVICES if service != "saga"]
    for service in others:
        await testbed.start(service, instance=2)
    await asyncio.gather(*(testbed.until_logged(logs[service], "consuming") for service in others))
    await _issue_as_before(testbed)
    testbed.play(*PAYING, rounds=2)
    await testbed.played()
    for service in others:
        await testbed.stop(service)
    await asyncio.to_thread(testbed.system.sandbox.mode, "normal")
    await asyncio.to_thread(stack.permit)
    await prune_topology(stack.rabbitmq_url)
    await _listen_as_now(testbed)
    await testbed.put_right()
    testbed.play(*PAYING)
    note.mended()
    assert testbed.restarts == restarts, "a service ended by itself"


async def _replayed_after(testbed: Testbed, note: Note) -> None:
    """A dead letter from before the migration is replayed after it, and once more."""
    dead_letter = await make_dead_letter(testbed)
    for service in SERVICES:
        note.fired(await _add_a_column(testbed, service))
        await testbed.restart(service)
    codes = [(await (await testbed.remit(*replay(dead_letter, "faults"))).result()).code for _ in range(2)]
    assert codes == [0, REFUSED]
    note.mended()


def trials() -> Sequence[Trial]:
    """One upgrade, and one dead letter from before an upgrade. The latter runs on a stack of its own: its migration must be new there."""
    return [
        Trial(
            name=f"{FAMILY}/replay-after-upgrade",
            family=FAMILY,
            injects="a dead letter from before a migration is replayed after it",
            run=_replayed_after,
            estimate_s=45.0,
            alone=True,
        ),
        Trial(
            name=f"{FAMILY}/rolling-upgrade",
            family=FAMILY,
            injects="the build before and this one work together, and a column is added meanwhile",
            run=_upgrade,
            estimate_s=60.0,
            touches=frozenset(SERVICES),
        ),
    ]
