"""Every crash point there is, as data: `remit faults list` prints them, `make faults` fires them all.

A test holds this table against the code: a point that is used is declared here, one that is declared is used, and every commit, confirm,
ack and gateway call has one before and after it.
"""

from dataclasses import dataclass
from typing import Final

INVOICE, PAYMENT_GATEWAY, SAGA, STAFF = "invoice", "payment_gateway", "saga", "staff"
REMIT: Final = "remit"
"""The command line: what a person does is a transaction of its own."""

ALL: Final = (INVOICE, PAYMENT_GATEWAY, SAGA, STAFF)
AT_ONCE: Final = (INVOICE, PAYMENT_GATEWAY, SAGA)
"""Services with a queue whose writes are all guarded by unique keys or versions (`shared.shell.Optimistic`)."""


@dataclass(frozen=True, slots=True)
class Point:
    """`name` as in the code, what lies there in one sentence, and which services come by."""

    name: str
    boundary: str
    passed_by: tuple[str, ...]


POINTS: Final = (
    # a batch of messages: shared.shell
    Point("shell.at_once.before_commit", "A batch is decided; the one statement that stores it is not sent.", AT_ONCE),
    Point("shell.at_once.after_commit", "The one statement has stored the batch; nothing is published.", AT_ONCE),
    Point("shell.before_commit", "All rows of a batch are written; its transaction is open.", ALL),
    Point("shell.after_commit", "The transaction of a batch is committed; nothing is published.", ALL),
    Point("shell.before_dead_letter", "Messages are to be set aside; their dead letters are not published.", ALL),
    Point("shell.after_dead_letter", "The broker has answered for the dead letters; nothing is acknowledged.", ALL),
    Point("shell.before_ack", "A batch is durable and published; it is not acknowledged.", ALL),
    Point("shell.after_ack", "A batch is settled; the broker hears of it within a tenth of a second.", ALL),
    Point("retention.before_forget", "A page of what is beyond its retention is to be forgotten.", ALL),
    Point("retention.after_forget", "A page of what was beyond its retention is forgotten.", ALL),
    # from the outbox to the broker: shared.messaging
    Point("relay.before_publish", "A parcel of messages is committed in the outbox; none is sent.", ALL),
    Point("publisher.before_confirm", "Messages are written to the socket; no confirm has been read.", ALL),
    Point(
        "relay.after_confirm", "The broker has answered for the messages; their parcels are still in the outbox.", ALL
    ),
    Point("outbox.before_delete", "Messages are confirmed; their parcels are to be deleted.", ALL),
    Point("outbox.after_delete", "The parcels of confirmed messages are deleted.", ALL),
    Point(
        "outbox.before_postpone",
        "The broker refused messages; what is left of their parcel is put off, not committed.",
        ALL,
    ),
    Point("outbox.after_postpone", "What is left of a parcel of which messages were refused is put off.", ALL),
    Point("relay.before_sweep_commit", "The sweeper has reserved overdue parcels; its transaction is open.", ALL),
    Point("relay.after_sweep_commit", "The sweeper's reservation is committed; nothing is published.", ALL),
    # invoice
    Point("invoice.reminder.before_commit", "Overdue requests are to be announced again; not committed.", (INVOICE,)),
    Point("invoice.reminder.after_commit", "The repeated announcement is committed; not published.", (INVOICE,)),
    # payment gateway: the rows
    Point("charging.before_claim", "Due payments are to be leased.", (PAYMENT_GATEWAY,)),
    Point("charging.after_claim", "Due payments are leased to this instance; nothing is done yet.", (PAYMENT_GATEWAY,)),
    Point("charging.before_release", "A service that stops is to give up its leases.", (PAYMENT_GATEWAY,)),
    Point("charging.after_release", "The leases are given up.", (PAYMENT_GATEWAY,)),
    Point(
        "charging.before_record", "Answers of the gateway are in hand; nothing of them is written.", (PAYMENT_GATEWAY,)
    ),
    Point("charging.at_once.before_commit", "The one statement that records answers is not sent.", (PAYMENT_GATEWAY,)),
    Point(
        "charging.at_once.after_commit",
        "One statement has recorded the answers; nothing is published.",
        (PAYMENT_GATEWAY,),
    ),
    Point("charging.before_record_commit", "Answers are written; their transaction is open.", (PAYMENT_GATEWAY,)),
    Point(
        "charging.after_record_commit", "Answers are recorded; their outcomes are not published.", (PAYMENT_GATEWAY,)
    ),
    # payment gateway: the calls
    Point("charging.before_tokenise", "A card is decrypted; the gateway has not seen it.", (PAYMENT_GATEWAY,)),
    Point("charging.after_tokenise", "The gateway gave a token; it is not recorded.", (PAYMENT_GATEWAY,)),
    Point("charging.before_prepare", "The gateway knows nothing of the payment.", (PAYMENT_GATEWAY,)),
    Point("charging.after_prepare", "The gateway gave an id; it is not recorded: an orphan.", (PAYMENT_GATEWAY,)),
    Point("charging.before_execute", "The gateway's id is recorded; nothing is charged.", (PAYMENT_GATEWAY,)),
    Point("charging.after_execute", "The gateway has charged or declined; nobody here knows.", (PAYMENT_GATEWAY,)),
    Point("charging.before_inquire", "The gateway is to be asked about a payment.", (PAYMENT_GATEWAY,)),
    Point("charging.after_inquire", "The gateway has answered about a payment; not recorded.", (PAYMENT_GATEWAY,)),
    Point("charging.before_cancel", "A payment is to be cancelled at the gateway.", (PAYMENT_GATEWAY,)),
    Point("charging.after_cancel", "The gateway has answered a cancel; not recorded.", (PAYMENT_GATEWAY,)),
    Point("charging.before_refund", "A captured payment is to be given back.", (PAYMENT_GATEWAY,)),
    Point("charging.after_refund", "The gateway has given the money back; not recorded.", (PAYMENT_GATEWAY,)),
    Point("charging.before_inquire_refund", "The gateway is to be asked about a refund.", (PAYMENT_GATEWAY,)),
    Point(
        "charging.after_inquire_refund", "The gateway has answered about a refund; not recorded.", (PAYMENT_GATEWAY,)
    ),
    # saga
    Point("saga.deadlines.before_commit", "Deadlines fired and moved their sagas; not committed.", (SAGA,)),
    Point("saga.deadlines.after_commit", "Fired deadlines are committed; nothing is published.", (SAGA,)),
    # staff: what comes in
    Point("staff.intake.before_commit", "Dead letters are written; their transaction is open.", (STAFF,)),
    Point("staff.intake.after_commit", "Dead letters are recorded; none is acknowledged.", (STAFF,)),
    Point("staff.intake.before_ack", "Recorded dead letters are to be acknowledged.", (STAFF,)),
    Point("staff.intake.after_ack", "Recorded dead letters are settled; the broker hears of it soon.", (STAFF,)),
    # staff: what a person does
    Point("staff.replay.after_journal", "A replay or discard is in the journal; the letter is as it was.", (REMIT,)),
    Point("staff.replay.before_commit", "A replay or discard is written; not committed.", (REMIT,)),
    Point("staff.replay.after_commit", "A replay or discard is committed; the person has not heard.", (REMIT,)),
    Point("staff.ask.before_commit", "A question about a payment is written; not committed.", (REMIT,)),
    Point("staff.ask.after_commit", "A question about a payment is committed; not published.", (REMIT,)),
    Point("staff.resolve.before_commit", "A decision about a payment is written; not committed.", (REMIT,)),
    Point("staff.resolve.after_commit", "A decision about a payment is committed; not published.", (REMIT,)),
)

NAMES: Final = frozenset(point.name for point in POINTS)
