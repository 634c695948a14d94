"""Commands that are answered at the border of the public queue and reach no invoice: they cannot be read, or may not be sent.

The answer goes to the command's own id. If that cannot be read or must not be used, it goes to the AMQP message id, and where there
is none, to one that is made of what came.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from services.invoice.answers import StoredAnswer
from services.invoice.command_inbox import (
    TRUSTED,
    CommandInbox,
    ReceivedCommand,
    RefusedCommand,
    _answer_again,
    _answer_of,
    _correlation,
    announce_answer,
    close_answers,
)
from services.invoice.senders import Senders
from shared.batch.inbox import DeadLettered, DecidedBatch, Item
from shared.contracts.base import Contract
from shared.contracts.invoice import AnswerReason, CloseCommand, InvoiceCommandRejected, IssueInvoice, RecordPayment
from shared.ids import derived_id
from shared.messaging.codec import HEADER_BYTES_MAX, STRUCTURED, decode
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Cause
from shared.persistence.writes import WriteBatch

OWN, AMQP = UUID(int=1), UUID(int=2)
PAN = "4242424242424242"
ISSUE = IssueInvoice(invoice_id="INV-1", customer_id="C-1", amount_minor=500, currency="EUR")
RECORD = RecordPayment(
    invoice_id="INV-1", payment_id=UUID(int=3), amount_minor=500, currency="EUR", receipt_number="ch_1"
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as a sender publishes it."""

    body: bytes
    content_type: str | None = STRUCTURED
    message_id: str | None = str(AMQP)
    reply_to: str | None = "mine"
    headers: tuple[tuple[str, Any], ...] = ()
    content_encoding: str | None = None
    user_id: str | None = None
    senders: Senders = TRUSTED


@dataclass(frozen=True, slots=True)
class AnsweredRejected:
    """It is answered `rejected`, under this id."""

    command_id: UUID
    reason: AnswerReason


@dataclass(frozen=True, slots=True)
class BecomesDeadLetter:
    """It becomes a dead letter."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReachesInvoice:
    """The invoice decides about it."""

    command: Contract


Admitted = AnsweredRejected | BecomesDeadLetter | ReachesInvoice


def event(data: Contract, **changes: Any) -> bytes:
    written = {"specversion": "1.0", "id": str(OWN), "type": data.wire_name, "source": "/t"}
    return json.dumps({**written, "data": data.model_dump(mode="json"), **changes}).encode()


def admit(sent: Sent) -> Item | DeadLettered:
    headers = dict(sent.headers)
    delivery = Delivery(
        body=sent.body,
        tag=1,
        generation=1,
        queue="invoice.commands",
        exchange="invoice.commands.entry",
        routing_key="any",
        content_type=sent.content_type,
        message_id=sent.message_id,
        correlation_id=None,
        reply_to=sent.reply_to,
        type=None,
        headers=headers,
        user_id=sent.user_id,
    )
    read = decode(sent.body, content_type=sent.content_type, content_encoding=sent.content_encoding, headers=headers)
    return CommandInbox(sent.senders).admit(delivery, read)


def admitted(sent: Sent) -> Admitted:
    match admit(sent):
        case RefusedCommand(answer=answer, command_id=command_id):
            assert (answer.answer, answer.invoice_id) == ("rejected", None)
            return AnsweredRejected(command_id, AnswerReason(answer.reason or ""))
        case DeadLettered(reason=reason):
            return BecomesDeadLetter(reason)
        case Item(message=message):
            assert message is not None
            return ReachesInvoice(message.data)


HEALTHY = event(ISSUE)
NAMED = Senders(are_named=True)
ADMISSIONS: list[tuple[str, Sent, Admitted]] = [
    ("a command is handled", Sent(HEALTHY), ReachesInvoice(ISSUE)),
    ("a command of ours", Sent(event(RECORD)), AnsweredRejected(OWN, AnswerReason.NOT_PUBLIC)),
    (
        "a command of ours, with a mistake that nobody need correct",
        Sent(event(RECORD).replace(b"amount_minor", b"amount")),
        AnsweredRejected(OWN, AnswerReason.NOT_PUBLIC),
    ),
    (
        "an answer to a queue of ours",
        Sent(HEALTHY, reply_to="invoice.settlement"),
        AnsweredRejected(OWN, AnswerReason.REPLY_TO_NOT_ALLOWED),
    ),
    (
        "an answer to an address that would end the connection",
        Sent(HEALTHY, reply_to="amq.rabbitmq.reply-to.AAAA.BBBB"),
        AnsweredRejected(OWN, AnswerReason.REPLY_TO_NOT_ALLOWED),
    ),
    (
        "a command of nobody, where senders have names",
        Sent(HEALTHY, senders=NAMED),
        AnsweredRejected(OWN, AnswerReason.SENDER_UNKNOWN),
    ),
    (
        "a command of a sender with a name",
        Sent(HEALTHY, senders=NAMED, user_id="billing", reply_to="billing.answers"),
        ReachesInvoice(ISSUE),
    ),
    (
        "an answer to another sender",
        Sent(HEALTHY, senders=NAMED, user_id="billing", reply_to="shop.answers"),
        AnsweredRejected(OWN, AnswerReason.REPLY_TO_NOT_ALLOWED),
    ),
    (
        "a card number in clear: even the id of the command is not used",
        Sent(HEALTHY.replace(b"C-1", PAN.encode())),
        AnsweredRejected(AMQP, AnswerReason.CLEAR_CARD_NUMBER),
    ),
    (
        "a CVV: even the id of the command is not used",
        Sent(HEALTHY.replace(b'"C-1"', b'"C-1", "cvv": "123"')),
        AnsweredRejected(AMQP, AnswerReason.CVV_NOT_ACCEPTED),
    ),
    (
        "a field that does not fit",
        Sent(HEALTHY.replace(b"500", b"-5")),
        AnsweredRejected(OWN, AnswerReason.INVALID_DATA),
    ),
    ("no JSON", Sent(b"PAY ME"), AnsweredRejected(AMQP, AnswerReason.NOT_JSON)),
    (
        "no CloudEvent",
        Sent(event(ISSUE, specversion="0.3", id="17")),
        AnsweredRejected(AMQP, AnswerReason.NOT_A_CLOUD_EVENT),
    ),
    (
        "another content type",
        Sent(HEALTHY, content_type="text/plain"),
        AnsweredRejected(AMQP, AnswerReason.UNSUPPORTED_CONTENT_TYPE),
    ),
    (
        "a compressed body",
        Sent(gzip.compress(HEALTHY), content_encoding="gzip"),
        AnsweredRejected(AMQP, AnswerReason.UNSUPPORTED_CONTENT_ENCODING),
    ),
    ("a large body", Sent(b"{" + b" " * 70_000 + b"}"), AnsweredRejected(AMQP, AnswerReason.TOO_LARGE)),
    (
        "large headers",
        Sent(HEALTHY, headers=(("note", "x" * HEADER_BYTES_MAX),)),
        AnsweredRejected(AMQP, AnswerReason.HEADERS_TOO_LARGE),
    ),
    ("deep nesting", Sent(b"[" * 5_000 + b"]" * 5_000), AnsweredRejected(AMQP, AnswerReason.TOO_DEEP)),
    (
        "a key that comes twice",
        Sent(HEALTHY.replace(b'"C-1"', b'"C-1", "customer_id": "C-2"')),
        AnsweredRejected(AMQP, AnswerReason.DUPLICATE_KEY),
    ),
    ("a long number", Sent(HEALTHY.replace(b"500", b"5" * 20)), AnsweredRejected(AMQP, AnswerReason.NUMBER_TOO_LONG)),
    ("a NUL", Sent(HEALTHY.replace(b"C-1", rb"C\u0000")), AnsweredRejected(AMQP, AnswerReason.NUL_CHARACTER)),
    (
        "half a surrogate",
        Sent(HEALTHY.replace(b"C-1", rb"C\ud800")),
        AnsweredRejected(AMQP, AnswerReason.LONE_SURROGATE),
    ),
    (
        "a type of a later version is a dead letter until an upgrade",
        Sent(event(ISSUE, type="remit.invoice.IssueInvoice.v2")),
        BecomesDeadLetter("unknown_version"),
    ),
    (
        "a type that is misspelt",
        Sent(event(ISSUE, type="remit.invoice.IsueInvoice.v1")),
        AnsweredRejected(OWN, AnswerReason.UNKNOWN_TYPE),
    ),
    *(
        (
            f"a type whose version is `{version}`",
            Sent(event(ISSUE, type=f"remit.invoice.IssueInvoice{version}")),
            AnsweredRejected(OWN, AnswerReason.UNKNOWN_TYPE),
        )
        for version in ("", ".v0", ".v", ".v02", ".v1.1", ".v1000", ".v٢")
    ),
    ("neither an id nor an address", Sent(b"PAY ME", message_id="17", reply_to=None), BecomesDeadLetter("not_json")),
    (
        "an address that is not answered",
        Sent(b"PAY ME", message_id="17", reply_to="invoice.commands"),
        BecomesDeadLetter("not_json"),
    ),
]


@pytest.mark.parametrize(("sent", "then"), [row[1:] for row in ADMISSIONS], ids=[name for name, *_ in ADMISSIONS])
def test_admission(sent: Sent, then: Admitted) -> None:
    assert admitted(sent) == then


@pytest.mark.parametrize(
    "sent",
    [
        Sent(event(ISSUE, id="order 17"), message_id=None),
        Sent(event(ISSUE, id=17), message_id="order 17"),
        Sent(b"PAY ME", message_id="order 17"),
        Sent(HEALTHY.replace(b'"C-1"', b'"C-1", "cvv": "123"'), message_id=None),
    ],
    ids=["the event's id is no UUID", "nor is that of AMQP", "no JSON", "a CVV"],
)
def test_a_command_without_a_uuid_is_answered_where_it_wants_to_be(sent: Sent) -> None:
    """Under an id that Remit makes of it: always the same one, and another one for another sender or address."""
    refused, again = admit(sent), admit(sent)
    assert isinstance(refused, RefusedCommand)
    assert isinstance(again, RefusedCommand)
    assert (refused.reply_to, refused.answer.answer) == ("mine", "rejected")
    assert refused.id == again.id
    others = [admit(replace(sent, reply_to="theirs")), admit(replace(sent, user_id="billing"))]
    assert len({refused.id, *(other.id for other in others if isinstance(other, RefusedCommand))}) == 3
    cause = Cause(refused.id, refused.answer.correlation_id, datetime(2026, 11, 22, tzinfo=UTC))
    (_, told) = announce_answer(refused.answer, cause, reply_to="mine", correlation_id=_correlation(refused))
    assert told.correlation_id == (sent.message_id or str(refused.command_id))


@pytest.mark.parametrize("added", [b'"note": "%b"' % PAN.encode(), b'"cvv": "123"'])
def test_a_refusal_for_card_data_spends_no_id(added: bytes) -> None:
    """Its answer is kept under another id than that of the command, always the same one; the command may come again without the card."""
    refused = admit(Sent(HEALTHY.replace(b'"C-1"', b'"C-1", ' + added)))
    assert isinstance(refused, RefusedCommand)
    assert refused.command_id == AMQP
    assert refused.id == refused.answer.command_id == derived_id(AMQP, "card_data")
    assert refused.answer.content_hash is None


def test_the_same_id_from_another_sender_is_another_command() -> None:
    """Also if it is refused: what is kept of it, and under which id, has nothing to do with the other."""
    bodies = [HEALTHY, HEALTHY.replace(b"500", b"-5"), HEALTHY.replace(b'"C-1"', b'"C-1", "cvv": "123"')]
    items = [
        admit(Sent(body, senders=NAMED, user_id=user, reply_to=None)) for body in bodies for user in ("a", "b", None)
    ]
    kept = [item.id for item in items if isinstance(item, ReceivedCommand)]
    assert len(set(kept)) == 6, "each of three senders used one id twice, the second time for something unreadable"
    assert {OWN, AMQP}.isdisjoint(kept)
    told = {item.answer.told_id for item in items if isinstance(item, RefusedCommand)}
    assert told <= {OWN, AMQP}, "each sender is told of the id that it knows"


@pytest.mark.parametrize(
    ("first", "again", "reason"),
    [
        (Sent(b"PAY ME"), Sent(b"PAY ME"), AnswerReason.NOT_JSON),
        (Sent(b"PAY ME"), Sent(b"PAY ME TOO"), AnswerReason.COMMAND_ID_REUSED),
        (Sent(b"{" + b" " * 70_000), Sent(b"{" + b" " * 70_000), AnswerReason.TOO_LARGE),
        (Sent(b"{" + b" " * 70_000), Sent(b"{" + b" " * 70_001), AnswerReason.COMMAND_ID_REUSED),
        (Sent(b"PAY ME"), Sent(b"{" + b" " * 70_000), AnswerReason.COMMAND_ID_REUSED),
        (
            Sent(HEALTHY.replace(b'"C-1"', b'"C-1", "cvv": "123"')),
            Sent(HEALTHY.replace(b'"C-1"', b'"C-1", "cvv2": "123"')),
            AnswerReason.CVV_NOT_ACCEPTED,
        ),
    ],
)
def test_what_cannot_be_told_from_the_first_is_another_command(first: Sent, again: Sent, reason: AnswerReason) -> None:
    """Nothing of a stored answer is given to whoever only knows its id."""
    stored, repeated = admit(first), admit(again)
    assert isinstance(stored, RefusedCommand)
    assert isinstance(repeated, RefusedCommand)
    decided = DecidedBatch((), [repeated], {}, datetime(2026, 1, 1, tzinfo=UTC))
    (answer,) = _answer_again(repeated, stored.answer, decided)
    assert json.loads(answer.body)["data"]["reason"] == reason.value


LONG = ISSUE.model_copy(update={"customer_id": "100000000000001"})
LONGER = LONG.model_copy(update={"customer_id": "100000000000002"})


@pytest.mark.parametrize(
    ("again", "is_purged", "is_same"),
    [
        (LONG, False, True),
        (LONGER, False, False),
        (ISSUE, False, False),
        (LONG, True, True),
        (LONGER, True, True),
        (ISSUE, True, False),
        (LONG.model_copy(update={"customer_id": "100000000000001-A"}), True, False),
        (LONG.model_copy(update={"amount_minor": 501}), True, False),
        (LONG.model_copy(update={"currency": "USD"}), True, False),
        (LONG.model_copy(update={"invoice_id": "INV-2"}), True, False),
    ],
)
def test_a_command_is_known_again_after_its_card_number_was_purged(
    again: IssueInvoice, *, is_purged: bool, is_same: bool
) -> None:
    """By all but its long numbers: whatever tells those apart gives the card number away to whoever tries all."""
    first, repeated = admit(Sent(event(LONG))), admit(Sent(event(again)))
    assert isinstance(first, ReceivedCommand)
    assert isinstance(repeated, ReceivedCommand)
    assert first.message is not None
    stored = StoredAnswer(
        OWN,
        LONG.wire_name,
        "accepted",
        "C-1",
        content_hash=None if is_purged else first.message.content_hash,
        outline_hash=first.message.outline_hash,
    ).as_kept()
    (answer,) = _answer_again(repeated, stored, DecidedBatch((), [repeated], {}, datetime(2026, 1, 1, tzinfo=UTC)))
    reason = json.loads(answer.body)["data"]["reason"]
    assert reason == (None if is_same else AnswerReason.COMMAND_ID_REUSED.value)


@pytest.mark.parametrize(
    "sent", [event(LONG, type="remit.invoice.InvoicePaid.v1"), event(LONG) + b"x", b"100000000000001"]
)
def test_of_a_rejected_command_no_hash_over_a_long_number_is_kept(sent: bytes) -> None:
    """Nothing else of it is stored, so nobody would find a card number there and take its hash away."""
    refused, again = admit(Sent(sent)), admit(Sent(sent))
    other = admit(Sent(sent.replace(b"1000", b"1x000")))
    assert isinstance(refused, RefusedCommand)
    kept = refused.answer.as_kept()
    assert kept.content_hash is None
    assert kept.outline_hash is not None
    for item, is_same in ((again, True), (other, False)):
        assert isinstance(item, RefusedCommand)
        (answer,) = _answer_again(item, kept, DecidedBatch((), [item], {}, datetime(2026, 1, 1, tzinfo=UTC)))
        assert (json.loads(answer.body)["data"]["reason"] == refused.answer.reason) == is_same


@pytest.mark.parametrize(
    ("type_", "events"), [(RECORD.wire_name, 1), ("unread", 1), (InvoiceCommandRejected.wire_name, 0)]
)
def test_no_event_tells_of_the_rejection_of_an_event(type_: str, events: int) -> None:
    """Somebody may bind the exchange of our events to that of commands. Each rejection would cause the next one."""
    answer = StoredAnswer(OWN, type_, "rejected", "C-1", reason=AnswerReason.NOT_PUBLIC.value)
    cause = Cause(OWN, "C-1", datetime(2026, 11, 22, tzinfo=UTC))
    assert len(announce_answer(answer, cause, reply_to=None, correlation_id=None)) == events


@pytest.mark.parametrize(("kept_for", "is_answer"), [(None, True), ("billing", True), ("shop", False)])
def test_under_the_former_id_of_a_command_only_its_senders_answer_counts(kept_for: str | None, is_answer: bool) -> None:
    """Before senders had names, two of them could use one id."""
    found = {OWN: StoredAnswer(OWN, ISSUE.wire_name, "accepted", "C-1", sender=kept_for)}
    answer = _answer_of(found, AMQP, OWN, "billing")
    assert (answer is not None) == is_answer


class NoAnswers:
    """A transaction in a database without answers. It keeps what is stored."""

    def __init__(self) -> None:
        self.stored: list[Any] = []

    async def fetch(self, *_: object) -> list[Any]:
        return []

    async def execute(self, _: str, answers: Sequence[Any]) -> None:
        self.stored += answers


async def test_a_command_that_is_closed_twice_in_one_batch_is_answered_once() -> None:
    close = CloseCommand(command_id=OWN, command_type=ISSUE.wire_name, reply_to="mine", reason="a test")
    causes = [Cause(UUID(int=number), "C-1", datetime(2026, 1, 1, tzinfo=UTC)) for number in (7, 8)]
    writes = NoAnswers()
    outgoing = await close_answers(cast(WriteBatch, writes), [(cause, close) for cause in causes], TRUSTED)
    assert (len(writes.stored), [message.routing_key for message in outgoing].count("mine")) == (1, 1)
