"""The doctor's look at the broker over AMQP: reachable, of a supported version, with the topology, with consumers on each queue."""

import re
from typing import Final

from deploy.doctor.diagnosis import Diagnosis, broken, look, unseen, well
from services.audit.errors import AuditError
from services.audit.queues import QueueState, read_queues
from shared.amqp.broker_link import BROKER_ERRORS, BrokerLink, losses_as_errors
from shared.messaging.apply import TopologyError, check_topology, leftovers
from shared.messaging.topology import QUEUES, UNREADABLE_DEAD_LETTERS, Queue

RABBITMQ_LEAST: Final = (3, 10)
RABBITMQ_TESTED_MOST: Final = (4, 99)
DEPTH_LOOK: Final = 10_000
"""Messages in a queue: a few seconds of work for one instance, or a service that does not run."""
SETUP_NEEDED: Final = "run it with the URL of the user remit_setup, as `remit topology check`"


async def look_at_broker(url: str) -> list[Diagnosis]:
    """Everything that AMQP tells. A broker that cannot be reached is one diagnosis."""
    try:
        states = await read_queues(url, look_into=False)
    except AuditError as error:
        return [broken("broker", str(error), "look at RabbitMQ, and at RABBITMQ_URL")]
    return [await _version(url), *_queues(states), *await _topology(url)]


async def _version(url: str) -> Diagnosis:
    """What the broker says of itself at the begin of a connection."""
    link = BrokerLink(url, name="remit doctor")
    try:
        with losses_as_errors():
            told = (await link.channel(confirms=False)).connection.server_properties.get("version", b"")
    except BROKER_ERRORS as error:
        return broken("broker", f"It went away ({type(error).__name__}).", "run it again")
    finally:
        await link.close()
    return judge_version(told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told))


def judge_version(text: str) -> Diagnosis:
    """Whether this version of RabbitMQ is one that Remit runs on."""
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        return look("broker", f"It does not say which version it is ({text[:40]!r}).", "is it RabbitMQ?")
    version = (int(numbers[1]), int(numbers[2]))
    if version < RABBITMQ_LEAST:
        return broken("broker", f"RabbitMQ {text} is older than 3.10.", "upgrade RabbitMQ to 3.10 or newer")
    if version > RABBITMQ_TESTED_MOST:
        return look("broker", f"RabbitMQ {text} is newer than 4.x, the newest that was tried.", "watch the logs")
    return well("broker", f"RabbitMQ {text} answers.")


def _queues(states: "dict[str, QueueState | None]") -> list[Diagnosis]:
    found = [diagnosis for queue in QUEUES if (diagnosis := _queue(queue, states[queue.name])) is not None]
    return found or [well("queues", "Each is there, and is consumed.")]


def _queue(queue: Queue, state: QueueState | None) -> Diagnosis | None:
    """What is wrong with a queue, if anything is."""
    what = f"queue {queue.name}"
    if state is None:
        return broken(what, "It is missing.", "remit topology apply")
    if queue.name == UNREADABLE_DEAD_LETTERS:
        do = "deploy/README.md, A message that ends connections"
        why = f"{state.ready} messages ended every connection that read them."
        return broken(what, why, do) if state.ready else None
    if not state.consumers:
        return _unread(queue, state.ready)
    if state.ready > DEPTH_LOOK:
        do = "add instances, or see why they are slow: /metrics and the log"
        return look(what, f"{state.ready} messages wait, for {state.consumers} consumers.", do)
    return None


def _unread(queue: Queue, ready: int) -> Diagnosis | None:
    """A queue that nobody consumes. An optional one may be unread, as long as nothing is sent to it."""
    what = f"queue {queue.name}"
    if queue.is_optional:
        do = "the same STAFF_JOURNAL and HEARTBEATS for `remit topology apply` and for staff"
        why = f"Nobody reads it, and {ready} messages wait. It only feeds pages of staff."
        return look(what, why, do) if ready else None
    service = "staff" if queue.name.startswith("dead-letters") else queue.name.partition(".")[0]
    return broken(what, f"Nobody consumes it, and {ready} messages wait.", f"remit run {service}")


async def _topology(url: str) -> list[Diagnosis]:
    try:
        problems, notes = await check_topology(url), await leftovers(url)
    except TopologyError as error:
        return [unseen("topology", f"Its settings were not compared: {str(error).partition(':')[0]}.", SETUP_NEEDED)]
    found = [broken("topology", f"{problem[:1].upper()}{problem[1:]}.", "remit topology apply") for problem in problems]
    found += [look("topology", f"{note[:1].upper()}{note[1:]}.", "remit topology check") for note in notes]
    return found or [well("topology", "Exchanges and queues are as they should be.")]
