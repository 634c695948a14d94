"""Crash points: named places where a test makes this process die, stop, stumble or be cancelled.

`POINTS` lists every one: `remit faults list` prints them, `make faults` fires them all. A test holds the list against the code: every
commit, confirm, acknowledgement and gateway call has a point before and after it. Off unless `REMIT_FAULT=name:nth:action` is set; then
loudly logged. Off, a point costs one comparison.
"""

import asyncio
import os
import signal
from typing import Final

import structlog

from shared.records import dataclass
from shared.settings import ConfigurationError

log = structlog.get_logger(__name__)

# -- which there are -------------------------------------------------------------------------------------------------------------------

INVOICE, PAYMENT_GATEWAY, SAGA, STAFF = "invoice", "payment_gateway", "saga", "staff"
REMIT: Final = "remit"
"""The command line: what a person does is a transaction of its own."""

ALL: Final = (INVOICE, PAYMENT_GATEWAY, SAGA, STAFF)
AT_ONCE: Final = (INVOICE, PAYMENT_GATEWAY, SAGA)
"""Services with a queue whose writes are all guarded by unique keys or versions (`shared.batch.handler.OptimisticHandler`)."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """`name` as in the code, what lies there in one sentence, and which services come by."""

    name: str
    boundary: str
    passed_by: tuple[str, ...]


POINTS: Final = (
    # a batch of messages: shared.batch
    CrashPoint(
        "shell.at_once.before_commit", "A batch is decided; the one statement that stores it is not sent.", AT_ONCE
    ),
    CrashPoint("shell.at_once.after_commit", "The one statement has stored the batch; nothing is published.", AT_ONCE),
    CrashPoint("shell.before_commit", "All rows of a batch are written; its transaction is open.", ALL),
    CrashPoint("shell.after_commit", "The transaction of a batch is committed; nothing is published.", ALL),
    CrashPoint("shell.before_dead_letter", "Messages are to be set aside; their dead letters are not published.", ALL),
    CrashPoint(
        "shell.after_dead_letter", "The broker has answered for the dead letters; nothing is acknowledged.", ALL
    ),
    CrashPoint("shell.before_ack", "A batch is durable and published; it is not acknowledged.", ALL),
    CrashPoint("shell.after_ack", "A batch is settled; the broker hears of it within a tenth of a second.", ALL),
    CrashPoint("retention.before_forget", "A page of what is beyond its retention is to be forgotten.", ALL),
    CrashPoint("retention.after_forget", "A page of what was beyond its retention is forgotten.", ALL),
    # from the outbox to the broker: shared.messaging
    CrashPoint("relay.before_publish", "A parcel of messages is committed in the outbox; none is sent.", ALL),
    CrashPoint("publisher.before_confirm", "Messages are written to the socket; no confirm has been read.", ALL),
    CrashPoint(
        "relay.after_confirm", "The broker has answered for the messages; their parcels are still in the outbox.", ALL
    ),
    CrashPoint("outbox.before_delete", "Messages are confirmed; their parcels are to be deleted.", ALL),
    CrashPoint("outbox.after_delete", "The parcels of confirmed messages are deleted.", ALL),
    CrashPoint(
        "outbox.before_postpone",
        "The broker refused messages; what is left of their parcel is put off, not committed.",
        ALL,
    ),
    CrashPoint("outbox.after_postpone", "What is left of a parcel of which messages were refused is put off.", ALL),
    CrashPoint("relay.before_sweep_commit", "The sweeper has reserved overdue parcels; its transaction is open.", ALL),
    CrashPoint("relay.after_sweep_commit", "The sweeper's reservation is committed; nothing is published.", ALL),
    # invoice
    CrashPoint(
        "invoice.reminder.before_commit", "Overdue requests are to be announced again; not committed.", (INVOICE,)
    ),
    CrashPoint("invoice.reminder.after_commit", "The repeated announcement is committed; not published.", (INVOICE,)),
    # payment gateway: the rows
    CrashPoint("charging.before_claim", "Due payments are to be leased.", (PAYMENT_GATEWAY,)),
    CrashPoint(
        "charging.after_claim", "Due payments are leased to this instance; nothing is done yet.", (PAYMENT_GATEWAY,)
    ),
    CrashPoint("charging.before_release", "A service that stops is to give up its leases.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_release", "The leases are given up.", (PAYMENT_GATEWAY,)),
    CrashPoint(
        "charging.before_record", "Answers of the gateway are in hand; nothing of them is written.", (PAYMENT_GATEWAY,)
    ),
    CrashPoint(
        "charging.at_once.before_commit", "The one statement that records answers is not sent.", (PAYMENT_GATEWAY,)
    ),
    CrashPoint(
        "charging.at_once.after_commit",
        "One statement has recorded the answers; nothing is published.",
        (PAYMENT_GATEWAY,),
    ),
    CrashPoint("charging.before_record_commit", "Answers are written; their transaction is open.", (PAYMENT_GATEWAY,)),
    CrashPoint(
        "charging.after_record_commit", "Answers are recorded; their outcomes are not published.", (PAYMENT_GATEWAY,)
    ),
    # payment gateway: the calls
    CrashPoint("charging.before_tokenise", "A card is decrypted; the gateway has not seen it.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_tokenise", "The gateway gave a token; it is not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_prepare", "The gateway knows nothing of the payment.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_prepare", "The gateway gave an id; it is not recorded: an orphan.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_execute", "The gateway's id is recorded; nothing is charged.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_execute", "The gateway has charged or declined; nobody here knows.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_inquire", "The gateway is to be asked about a payment.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_inquire", "The gateway has answered about a payment; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_cancel", "A payment is to be cancelled at the gateway.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_cancel", "The gateway has answered a cancel; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_refund", "A captured payment is to be given back.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_refund", "The gateway has given the money back; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_inquire_refund", "The gateway is to be asked about a refund.", (PAYMENT_GATEWAY,)),
    CrashPoint(
        "charging.after_inquire_refund", "The gateway has answered about a refund; not recorded.", (PAYMENT_GATEWAY,)
    ),
    # saga
    CrashPoint("saga.deadlines.before_commit", "Deadlines fired and moved their sagas; not committed.", (SAGA,)),
    CrashPoint("saga.deadlines.after_commit", "Fired deadlines are committed; nothing is published.", (SAGA,)),
    # staff: what comes in
    CrashPoint("staff.intake.before_commit", "Dead letters are written; their transaction is open.", (STAFF,)),
    CrashPoint("staff.intake.after_commit", "Dead letters are recorded; none is acknowledged.", (STAFF,)),
    CrashPoint("staff.intake.before_ack", "Recorded dead letters are to be acknowledged.", (STAFF,)),
    CrashPoint("staff.intake.after_ack", "Recorded dead letters are settled; the broker hears of it soon.", (STAFF,)),
    # staff: what a person does
    CrashPoint(
        "staff.replay.after_journal", "A replay or discard is in the journal; the letter is as it was.", (REMIT,)
    ),
    CrashPoint("staff.replay.before_commit", "A replay or discard is written; not committed.", (REMIT,)),
    CrashPoint("staff.replay.after_commit", "A replay or discard is committed; the person has not heard.", (REMIT,)),
    CrashPoint("staff.ask.before_commit", "A question about a payment is written; not committed.", (REMIT,)),
    CrashPoint("staff.ask.after_commit", "A question about a payment is committed; not published.", (REMIT,)),
    CrashPoint("staff.resolve.before_commit", "A decision about a payment is written; not committed.", (REMIT,)),
    CrashPoint("staff.resolve.after_commit", "A decision about a payment is committed; not published.", (REMIT,)),
)

NAMES: Final = frozenset(point.name for point in POINTS)

# -- what they do ----------------------------------------------------------------------------------------------------------------------

ACTIONS = ("exit", "stop", "raise", "cancel")
EXIT_CODE = 86


class InjectedFault(Exception):
    """Raised by a crash point whose action is `raise`."""


@dataclass(slots=True)
class _Armed:
    name: str
    remaining: int
    action: str


_armed: _Armed | None = None


def arm(setting: str) -> None:
    """Make the point `name` act the `nth` time a task comes by: `name:nth:action`. An empty setting disarms.

    Raises `ConfigurationError`.
    """
    global _armed  # noqa: PLW0603 - one process has one armed fault
    if not setting:
        _armed = None
        return
    name, _, rest = setting.partition(":")
    nth, _, action = rest.partition(":")
    if action not in ACTIONS or not nth.isdecimal() or int(nth) < 1:
        raise ConfigurationError(f"REMIT_FAULT must be name:nth:action, the action one of {', '.join(ACTIONS)}.")
    if name not in NAMES:
        raise ConfigurationError(f"REMIT_FAULT: there is no crash point {name!r}: `remit faults list` shows them all.")
    log.warning("fault_armed", point=name, nth=nth, action=action)
    _armed = _Armed(name, int(nth), action)


def arm_from_environment() -> None:
    """Called once when a service starts."""
    arm(os.environ.get("REMIT_FAULT", ""))


def reach(name: str) -> None:
    """Here the process may be made to fail."""
    if _armed is not None and _armed.name == name:
        _pass_by(_armed)


def _pass_by(armed: _Armed) -> None:
    armed.remaining -= 1
    if armed.remaining != 0:
        return
    log.warning("fault_fired", point=armed.name, action=armed.action)
    match armed.action:
        case "exit":
            os._exit(EXIT_CODE)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise InjectedFault(armed.name)
        case _:
            raise asyncio.CancelledError(armed.name)
