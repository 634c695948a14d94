"""Crash points: named places where a test makes this process exit, stop, raise an error or be cancelled.

`POINTS` lists all of them. `remit faults list` prints them, and `make faults` fires each. A test compares the list with the code: every
commit, confirm, acknowledgement and gateway call has a point before and after it. All points are off unless `REMIT_FAULT=name:nth:action`
is set. A warning is logged then. A point that is off costs one comparison.
"""

import asyncio
import os
import signal
from typing import Final

import structlog

from shared.records import dataclass
from shared.settings import ConfigurationError

log = structlog.get_logger(__name__)

# -- the points ------------------------------------------------------------------------------------------------------------------------

INVOICE, PAYMENT_GATEWAY, SAGA, STAFF = "invoice", "payment_gateway", "saga", "staff"
REMIT: Final = "remit"
"""The command line. An action of a person runs there, in a transaction of its own."""

DESK: Final = ()
"""The desk: it is no service of the fault runs, and its tests fire its points themselves."""

ALL: Final = (INVOICE, PAYMENT_GATEWAY, SAGA, STAFF)
AT_ONCE: Final = ALL
"""Services with a queue whose writes are checked by unique keys or versions, or are merges (`shared.batch.handler.OptimisticHandler`)."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """A crash point. `boundary` says in one sentence what is done and not done there. `passed_by` names the services that reach it."""

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
    CrashPoint("shell.before_dead_letter", "Dead letters are written to the outbox; not committed.", ALL),
    CrashPoint("shell.after_dead_letter", "Dead letters are in the outbox; nothing is acknowledged.", ALL),
    CrashPoint("shell.before_ack", "A batch is durable and published; it is not acknowledged.", ALL),
    CrashPoint("shell.after_ack", "A batch is settled; the broker hears of it within a tenth of a second.", ALL),
    CrashPoint("retention.before_forget", "A page of rows beyond their retention is to be deleted.", ALL),
    CrashPoint("retention.after_forget", "A page of rows beyond their retention is deleted.", ALL),
    # from the outbox to the broker: shared.messaging
    CrashPoint("relay.before_publish", "An outbox batch is committed; none of its messages is sent.", ALL),
    CrashPoint("publisher.before_confirm", "Messages are written to the socket; no confirm has been read.", ALL),
    CrashPoint(
        "relay.after_confirm", "The broker has answered for the messages; their outbox batches still exist.", ALL
    ),
    CrashPoint(
        "relay.before_public",
        "Our own queues have events; their public copies are not sent.",
        (INVOICE, PAYMENT_GATEWAY),
    ),
    CrashPoint(
        "relay.after_public",
        "The broker has answered for public copies; their outbox batches still exist.",
        (INVOICE, PAYMENT_GATEWAY),
    ),
    CrashPoint("relay.before_outside", "An outbox batch that depends on others is committed; none of it is sent.", ALL),
    CrashPoint(
        "relay.after_outside",
        "The broker has answered for messages that depend on others; their batches still exist.",
        ALL,
    ),
    CrashPoint("outbox.before_delete", "Messages are confirmed; their outbox batches are to be deleted.", ALL),
    CrashPoint("outbox.after_delete", "The outbox batches of confirmed messages are deleted.", ALL),
    CrashPoint(
        "outbox.before_postpone",
        "The broker refused messages; the rest of their outbox batch is put off, not committed.",
        ALL,
    ),
    CrashPoint("outbox.after_postpone", "The rest of an outbox batch with refused messages is put off.", ALL),
    CrashPoint(
        "relay.before_sweep_commit", "The sweeper has reserved overdue outbox batches; its transaction is open.", ALL
    ),
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
        "charging.before_record", "Answers of the gateway have come; none of them is written.", (PAYMENT_GATEWAY,)
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
    CrashPoint("charging.before_find", "An old payment is to be looked for at the gateway.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_find", "The gateway has found a payment, or none; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_prepare", "The gateway does not know the payment yet.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_prepare", "The gateway gave an id; it is not recorded: an orphan.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_execute", "The gateway's id is recorded; nothing is charged.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_execute", "The gateway has charged or declined; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_inquire", "The gateway is to be asked about a payment.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_inquire", "The gateway has answered about a payment; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_cancel", "A payment is to be cancelled at the gateway.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_cancel", "The gateway has answered a cancel; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_refund", "An amount of a captured payment is to be given back.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.after_refund", "The gateway has given an amount back; not recorded.", (PAYMENT_GATEWAY,)),
    CrashPoint("charging.before_inquire_refund", "The gateway is to be asked about a refund.", (PAYMENT_GATEWAY,)),
    CrashPoint(
        "charging.after_inquire_refund", "The gateway has answered about a refund; not recorded.", (PAYMENT_GATEWAY,)
    ),
    # saga
    CrashPoint("saga.deadlines.before_commit", "Deadlines fired and changed their sagas; not committed.", (SAGA,)),
    CrashPoint("saga.deadlines.after_commit", "Fired deadlines are committed; nothing is published.", (SAGA,)),
    # staff: the intake of dead letters
    CrashPoint("staff.intake.before_commit", "Dead letters are written; their transaction is open.", (STAFF,)),
    CrashPoint("staff.intake.after_commit", "Dead letters are recorded; none is acknowledged.", (STAFF,)),
    CrashPoint("staff.intake.before_ack", "Recorded dead letters are to be acknowledged.", (STAFF,)),
    CrashPoint("staff.intake.after_ack", "Recorded dead letters are settled; the broker hears of it soon.", (STAFF,)),
    # staff: what it hears
    CrashPoint("staff.weeks.before_commit", "Partitions of messages are made or dropped; not committed.", (STAFF,)),
    CrashPoint("staff.weeks.after_commit", "Partitions of messages are made or dropped.", (STAFF,)),
    CrashPoint(
        "staff.queues.before_commit", "What the broker counted of our queues is written; not committed.", (STAFF,)
    ),
    CrashPoint("staff.queues.after_commit", "What the broker counted of our queues is stored.", (STAFF,)),
    # staff: actions of a person
    CrashPoint(
        "staff.replay.after_journal",
        "A replay or discard is in the journal; the dead letter is unchanged.",
        (REMIT,),
    ),
    CrashPoint("staff.replay.before_commit", "A replay or discard is written; not committed.", (REMIT,)),
    CrashPoint("staff.replay.after_commit", "A replay or discard is committed; the person has no reply.", (REMIT,)),
    CrashPoint("staff.run.before_commit", "A turn of a run is written; not committed.", (STAFF,)),
    CrashPoint("staff.run.after_commit", "A turn of a run is committed; its messages are not published.", (STAFF,)),
    CrashPoint("staff.run_preview.before_commit", "The list of a run is written; not committed.", DESK),
    CrashPoint("staff.run_preview.after_commit", "The list of a run is committed; the person has no reply.", DESK),
    CrashPoint(
        "staff.run_second.before_commit", "What a second person takes into a run is written; not committed.", DESK
    ),
    CrashPoint("staff.run_second.after_commit", "What a second person takes into a run is committed; no reply.", DESK),
    CrashPoint("staff.run_act.before_commit", "What a person does with a run is written; not committed.", DESK),
    CrashPoint("staff.run_act.after_commit", "What a person does with a run is committed; no reply.", DESK),
    CrashPoint("staff.undo.before_commit", "What undoes is written; not committed.", DESK),
    CrashPoint("staff.undo.after_commit", "What undoes is committed; the person has no reply.", DESK),
    CrashPoint("staff.restore.before_commit", "What brings a message back is written; not committed.", DESK),
    CrashPoint("staff.restore.after_commit", "What brings a message back is committed; the person has no reply.", DESK),
    CrashPoint("staff.letter_note.before_commit", "A note about a message is written; not committed.", DESK),
    CrashPoint("staff.letter_note.after_commit", "A note about a message is committed; no reply.", DESK),
    CrashPoint("staff.edit.before_commit", "An edited message is written; not committed.", DESK),
    CrashPoint("staff.edit.after_commit", "An edited message is committed; not published.", DESK),
    CrashPoint("staff.ask.before_commit", "A question about a payment is written; not committed.", (REMIT,)),
    CrashPoint("staff.ask.after_commit", "A question about a payment is committed; not published.", (REMIT,)),
    CrashPoint("staff.refund.before_commit", "A request for a refund is written; not committed.", (REMIT,)),
    CrashPoint("staff.refund.after_commit", "A request for a refund is committed; not published.", (REMIT,)),
    CrashPoint("staff.resolve.before_commit", "A decision about a payment is written; not committed.", (REMIT,)),
    CrashPoint("staff.resolve.after_commit", "A decision about a payment is committed; not published.", (REMIT,)),
)

NAMES: Final = frozenset(point.name for point in POINTS)

# -- their actions ---------------------------------------------------------------------------------------------------------------------

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
    """Arm one point. The setting `name:nth:action` makes the point `name` act when it is reached for the `nth` time.

    An empty setting disarms. Raises `ConfigurationError`.
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
    """Arm the point that `REMIT_FAULT` names. A service calls this once at its start. Raises `ConfigurationError`."""
    arm(os.environ.get("REMIT_FAULT", ""))


def reach(name: str) -> None:
    """The crash point `name`: if it is armed, the process may fail here."""
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
