"""Send commands to Remit, and hear what became of them. See `Remit`."""

from remit_kit.blocking import BlockingRemit
from remit_kit.client import Remit
from remit_kit.commands import (
    Command,
    EncryptedCard,
    Token,
    issue_invoice,
    new_id,
    pay_invoice,
    refund_invoice,
    void_invoice,
)
from remit_kit.errors import AccessRefused, NoAnswer, NoOutcome, NotConnected, Rejected, RemitError
from remit_kit.outcomes import Event, Paid, PaymentFailed, PaymentOutcome, Refunded, RefundFailed, RefundOutcome

__all__ = [
    "AccessRefused",
    "BlockingRemit",
    "Command",
    "EncryptedCard",
    "Event",
    "NoAnswer",
    "NoOutcome",
    "NotConnected",
    "Paid",
    "PaymentFailed",
    "PaymentOutcome",
    "RefundFailed",
    "RefundOutcome",
    "Refunded",
    "Rejected",
    "Remit",
    "RemitError",
    "Token",
    "issue_invoice",
    "new_id",
    "pay_invoice",
    "refund_invoice",
    "void_invoice",
]
