"""Tells what was committed: counts the messages that a commit brought about, and logs each business fact among them as one line.

This is called after the commit, with what the commit has stored. A process that dies in between leaves no line, and a message that is sent
again has none: tables are the books, and lines are for people who look for something.

A line costs a few microseconds, since it is not redacted like others: all that stands in it has passed the border, which refuses card data,
or is an id or a code of ours. Only a correlation id that does not look like an id is redacted.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final
from uuid import UUID

import prometheus_client
import structlog

from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.messaging.envelope import Outgoing
from shared.observability import metrics
from shared.observability.logs import are_facts_logged, log_facts, redact
from shared.persistence.outbox import OutboxBatch

log = structlog.get_logger(__name__)

FACTS: Final[Mapping[type[Contract], str]] = {
    invoice.InvoiceIssued: "issued",
    invoice.InvoicePaymentRequested: "requested",
    invoice.InvoicePaymentOverdue: "overdue",
    invoice.InvoicePaymentInDoubt: "flagged_in_doubt",
    invoice.InvoicePaid: "settled",
    invoice.InvoicePaymentFailed: "settled_as_failed",
    invoice.InvoiceVoided: "voided",
    invoice.InvoiceSettlementRejected: "settlement_rejected",
    invoice.InvoiceRefundRequested: "refund_requested",
    invoice.InvoiceRefunded: "refund_settled",
    invoice.InvoiceRefundFailed: "refund_settled_as_failed",
    invoice.InvoiceRefundRejected: "refund_rejected",
    invoice.InvoiceCommandRejected: "command_rejected",
    invoice.CommandAnswered: "answered",
    payment_gateway.PaymentCaptured: "captured",
    payment_gateway.PaymentDeclined: "declined",
    payment_gateway.PaymentNotCharged: "not_charged",
    payment_gateway.PaymentInDoubt: "in_doubt",
    payment_gateway.PaymentNeedsDecision: "needs_decision",
    payment_gateway.PaymentRefunded: "refunded",
    payment_gateway.PaymentRefundInDoubt: "refund_in_doubt",
    payment_gateway.PaymentRefundFailed: "refund_failed",
    payment_gateway.PaymentInquired: "inquired",
    payment_gateway.PaymentResolutionRefused: "decision_refused",
}
"""The word for each event and answer. Commands between services are no facts: they only ask for something."""

REASON_IS_TEXT: Final = frozenset({invoice.InvoiceVoided, invoice.InvoiceRefundRequested})
"""Facts whose reason is a text that somebody wrote. That of all others is a code."""
_MEMBERS: Final = (
    "invoice_id",
    "payment_id",
    "refund_id",
    "command_id",
    "version",
    "amount_minor",
    "currency",
    "answer",
    "outcome",
    "reason",
    "late",
)
"""What a line shows of a message, as far as it has it: ids, amounts, codes. Never a text that somebody wrote."""
_LOOKS_LIKE_AN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}").fullmatch


def committed(outbox_batches: Iterable[OutboxBatch]) -> None:
    """Count and log what a commit has stored in the outbox. Never raises: what is committed has to be published."""
    try:
        _tell(outbox_batches)
    except Exception:
        log.exception("facts_untold")


def _tell(outbox_batches: Iterable[OutboxBatch]) -> None:
    messages = [message for outbox_batch in outbox_batches for message in outbox_batch.messages]
    for type_, count in Counter(message.type for message in messages).items():
        _counter_of(type_ if type_ in BY_WIRE_NAME else "other").inc(count)
    if are_facts_logged():
        facts = [fact for message in messages if (fact := fact_of(message)) is not None]
        if facts:
            log_facts(facts)


def fact_of(message: Outgoing) -> dict[str, Any] | None:
    """The line about this message. None if it tells no fact, or was told before."""
    data = message.data
    if data is None or (word := FACTS.get(type(data))) is None:
        return None
    fact: dict[str, Any] = {"event": word, "correlation_id": shown_id(message.thread)}
    for name in _members_of(type(data)):
        value = getattr(data, name)
        if value is not None:
            fact[name] = str(value) if isinstance(value, UUID) else value
    fact["message_id"] = str(message.id)
    return fact


def shown_id(text: str) -> str:
    """An id that a sender chose, as a line shows it."""
    return text if _LOOKS_LIKE_AN_ID(text) else redact(text, max_characters=128)


@cache
def _members_of(contract: type[Contract]) -> Sequence[str]:
    fields = contract.model_fields
    return [name for name in _MEMBERS if name in fields and not (name == "reason" and contract in REASON_IS_TEXT)]


@cache
def _counter_of(type_: str) -> prometheus_client.Counter:
    return metrics.MESSAGES_COMMITTED.labels(type=type_)
