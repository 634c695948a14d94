"""Measures recovery: the time from the return of a service, or of the server it needs, until the service has done its waiting work.

The waiting work is listed by id when the service is ready: messages that an independent listener saw on the service's queues and that it
had not handled, messages in its outbox, payments that were due. What waits by intention is not counted: payments in doubt wait for their
rung of the ladder, payments of an instance that died for its lease, and what a full queue of others refused for room in it.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from deploy.local.stack import SERVICES, Service
from tests.faults.ready import until_ready
from tests.faults.testbed import POLL_S, Testbed
from tests.support.databases import rows

SERVICE_WITHIN_S: Final = 5.0
"""The limit after a kill -9 of a service, without its restart."""
SERVER_WITHIN_S: Final = 10.0
"""The limit after a restart of the broker or the database, without that restart."""
GIVE_UP_S: Final = 60.0

QUEUES_OF: Final[dict[Service, tuple[str, ...]]] = {
    "invoice": ("invoice.commands", "invoice.settlement"),
    "payment_gateway": ("payment_gateway.requests", "payment_gateway.commands"),
    "saga": ("saga.events",),
    "staff": ("staff.cases",),
}

_HANDLED: Final[dict[Service, str]] = dict.fromkeys(SERVICES, "SELECT message_id AS id FROM inbox") | {
    "invoice": "SELECT message_id AS id FROM inbox UNION ALL SELECT coalesce(sent_id, command_id) FROM answers"
}
_DEAD_LETTERED: Final = """SELECT event_id AS id FROM dead_letters WHERE event_id IS NOT NULL
    UNION ALL SELECT message_id::uuid FROM dead_letters WHERE message_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"""
_UNPUBLISHED: Final = """SELECT unnest(ids) AS id FROM outbox
    WHERE lane = 'inside' OR (lane = 'outside' AND exchanges[1] NOT IN ('invoice.events', 'payment.events'))"""
_DUE: Final = """SELECT payment_id AS id FROM payments
    WHERE status = 'requested' AND leased_by IS NULL AND due_at <= to_timestamp($1)"""


@dataclass(frozen=True, slots=True)
class _WaitingWork:
    """Ids of the work that waits."""

    messages: set[UUID]
    unpublished: set[UUID]
    due: set[UUID]


async def recovery_s(testbed: Testbed, *services: Service, since: float | None = None) -> float:
    """Seconds until each of these services has done the work that waited for it; the slowest one's. They count from `since`
    (`time.monotonic`, when a server was back), by default from the moment when each was ready. Raises TimeoutError with what was left."""
    return max(await asyncio.gather(*(_recovery_s(testbed, service, since) for service in services or SERVICES)))


async def _recovery_s(testbed: Testbed, service: Service, since: float | None) -> float:
    await until_ready(testbed, service)
    ready_at, moment = time.monotonic(), time.time()
    waiting = await _waiting(testbed, service, moment)
    while waiting.messages or waiting.unpublished or waiting.due:
        if time.monotonic() > ready_at + GIVE_UP_S:
            raise TimeoutError(f"{service} has not done its waiting work within {GIVE_UP_S:g} s: {waiting}")
        await asyncio.sleep(POLL_S)
        now = await _waiting(testbed, service, moment)
        waiting = _WaitingWork(
            waiting.messages & now.messages, waiting.unpublished & now.unpublished, waiting.due & now.due
        )
    return time.monotonic() - (ready_at if since is None else since)


async def _waiting(testbed: Testbed, service: Service, moment: float) -> _WaitingWork:
    seen = {id_ for queue in QUEUES_OF[service] if queue not in testbed.lost for id_ in testbed.tap.seen(queue)}
    handled, dead_lettered = (
        await _ids(testbed, service, _HANDLED[service]),
        await _ids(testbed, "staff", _DEAD_LETTERED),
    )
    due = await _ids(testbed, service, _DUE, moment) if service == "payment_gateway" else set()
    return _WaitingWork(seen - handled - dead_lettered, await _ids(testbed, service, _UNPUBLISHED), due)


async def _ids(testbed: Testbed, service: Service, query: str, *arguments: float) -> set[UUID]:
    found = await testbed.until_answered(lambda: rows(testbed.database(service), query, *arguments))
    return {row["id"] for row in found}
