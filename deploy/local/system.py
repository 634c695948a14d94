"""All of Remit on this machine: stack, sandbox gateway, card keys, and the four services as processes."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT, Fleet, open_fleet
from deploy.local.stack import OPERATOR, SERVICES, Service, Stack, open_stack
from deploy.permissions.apply import execute
from deploy.permissions.broker import SETUP
from deploy.permissions.databases import AUDIT, grants_sql
from deploy.sandbox.process import SandboxProcess, start_sandbox
from shared.card_data.encryption import generate_keyset
from shared.messaging.apply import apply_topology
from shared.messaging.optional_queues import OptionalQueueSettings
from shared.persistence.migrate import migrate
from shared.private_files import write_private
from shared.settings import EnvironmentVariables

SANDBOX_KEY: Final = "sk_test_remit"

IMPATIENT: Final = {
    "GATEWAY_TIMEOUT_S": "1.5",
    "GATEWAY_LADDER_S": "0.3,0.7,1.5,3",
    "GATEWAY_REQUESTS_PER_S": "10000",
    "GATEWAY_ENDPOINT_REQUESTS_PER_S": "10000",
    "SAGA_DEADLINE_S": "15,30,60",
    "INVOICE_REMIND_AFTER_S": "5",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "INFO",
}
"""Settings for a demonstration: what takes minutes or hours in production takes seconds here."""


@dataclass(frozen=True, slots=True)
class System:
    """Everything that runs, and the environment by which the person who types `remit` reaches it."""

    stack: Stack
    sandbox: SandboxProcess
    fleet: Fleet
    environment: Mapping[str, str]
    public_keys: Mapping[str, object]
    folder: Path

    @property
    def ledger(self) -> Path:
        """The sandbox's ledger file."""
        return self.sandbox.ledger

    @property
    def history(self) -> Path:
        """A sender on this system writes here what it sent; the audit reads it."""
        return self.folder / "history.jsonl"


@contextmanager
def open_system(*, say: Callable[[str], None], keep: str | None = None, **settings: str) -> Iterator[System]:
    """Starts broker, databases (migrated), topology and sandbox. The caller starts the services through `fleet`.

    `settings` are added to the services' environment. Everything ends with the block, or with its owner. `keep`: a name under which all
    data stay, and are found again the next time.
    """
    with open_stack(say=say, keep=keep) as stack, open_system_on(stack, keep=keep, **settings) as system:
        yield system


@contextmanager
def open_system_on(stack: Stack, *, keep: str | None = None, **settings: str) -> Iterator[System]:
    """Starts the same on a stack that runs already, and that goes on running afterwards."""
    of_fleet = None if keep is None else f"{keep}-services"
    with open_fleet(IMPATIENT | settings, environment_of=stack.environment_of, keep=of_fleet) as fleet:
        folder = fleet.folder
        keys, public_keys = folder / "card-keys.json", folder / "card-keys.public.json"
        if not public_keys.exists():  # written last
            public, private = generate_keyset("demo")
            keys.unlink(missing_ok=True)
            write_private(keys, json.dumps(private))
            public_keys.write_text(json.dumps(public), encoding="utf-8")
        public = json.loads(public_keys.read_text(encoding="utf-8"))
        asyncio.run(prepare(stack))
        with start_sandbox(folder / "ledger.sqlite", log=folder / "sandbox.log") as sandbox:
            fleet.add_to_environment(
                {"GATEWAY_URL": sandbox.url, "GATEWAY_API_KEY": SANDBOX_KEY, "CARD_KEYS_FILE": str(keys)}
            )
            environment = stack.environment_of(OPERATOR) | {"CARD_PUBLIC_KEYS_FILE": str(public_keys)}
            yield System(stack, sandbox, fleet, environment, public, folder)


async def prepare(stack: Stack) -> None:
    """The set-up: topology, migrations, permissions."""
    unbound = OptionalQueueSettings.read(EnvironmentVariables()).unbound
    await apply_topology(stack.rabbitmq_url_of(SETUP), unbound=unbound)
    for service in SERVICES:
        await migrate(stack.service_database_url(service), ROOT / "services" / service / "migrations")
        if stack.passwords:
            await execute(stack.service_database_url(service), grants_sql(service))


def remit(
    system: System, *arguments: str, columns: int = 120, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `remit` on this system, as an operator would in a terminal `columns` wide."""
    return subprocess.run(
        (sys.executable, "-m", "deploy.cli.main", *arguments),
        cwd=ROOT,
        env={**os.environ, **system.environment, "COLUMNS": str(columns), **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )


DRAINED_WITHIN_S: Final = 60.0
"""Longer than the longest deadline of a saga among the settings above: a service that missed a message asks for it again by then."""
DRAIN_POLL_S: Final = 0.2
UNDER_WAY: Final = dict.fromkeys(SERVICES, "SELECT count(*) FROM outbox") | {
    "invoice": """SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM invoices WHERE status = 'payment_pending')""",
    "saga": """SELECT (SELECT count(*) FROM outbox)
                    + (SELECT count(*) FROM sagas WHERE status IN ('awaiting_outcome', 'settling', 'refunding'))""",
}
"""Counts the work under way. The invoice knows of a payment from its request on; the saga of a healthy payment only from its outcome on."""


def wait_until_drained(system: System) -> None:
    """Wait until only work that waits for a person is left: the rest drains by itself. Raises StackError if it does not."""
    asyncio.run(_wait_until_drained(system))


async def _wait_until_drained(system: System) -> None:
    give_up_at = time.monotonic() + DRAINED_WITHIN_S
    while left := [service for service in SERVICES if await _count(system, service)]:
        if time.monotonic() > give_up_at:
            raise StackError(f"work was left after {DRAINED_WITHIN_S:.0f} s: {', '.join(left)}")
        await asyncio.sleep(DRAIN_POLL_S)


async def _count(system: System, service: Service) -> int:
    connection = await asyncpg.connect(system.stack.database_url_of(service, AUDIT), timeout=10)
    try:
        return int(await connection.fetchval(UNDER_WAY[service]))
    finally:
        await connection.close()


NO_EVIDENCE: Final = ("tap", "run", "baseline", "unacked")
"""Evidence that only a fault run has: a listener's records, the run's report, a baseline, counts of unacknowledged messages."""


def audit(system: System, *more: str, columns: int = 120) -> "subprocess.CompletedProcess[str]":
    """Run the audit on everything that this system stored, with the gateway's ledger, the sender's history and the logs."""
    stores = ("--ledger", str(system.ledger), "--history", str(system.history), "--logs", str(system.folder))
    without = [word for evidence in NO_EVIDENCE for word in ("--without", evidence)]
    whole = ("audit", "--drained", "--complete", *stores, *without, *more)
    return remit(system, *whole, columns=columns, variables=system.stack.environment_of(AUDIT))
