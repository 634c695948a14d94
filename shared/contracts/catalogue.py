"""Every message by its wire name. A contract that is not listed here does not exist."""

from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract

MESSAGES: tuple[type[Contract], ...] = (
    invoice.IssueInvoice,
    invoice.PayInvoice,
    invoice.VoidInvoice,
    invoice.RecordPayment,
    invoice.RecordPaymentFailure,
    invoice.FlagPaymentInDoubt,
    invoice.CloseCommand,
    invoice.InvoiceIssued,
    invoice.InvoicePaymentRequested,
    invoice.InvoicePaid,
    invoice.InvoicePaymentFailed,
    invoice.InvoicePaymentInDoubt,
    invoice.InvoiceVoided,
    invoice.InvoiceSettlementRejected,
    invoice.InvoiceCommandRejected,
    invoice.CommandAnswered,
    payment_gateway.InquirePayment,
    payment_gateway.RefundPayment,
    payment_gateway.ResolvePayment,
    payment_gateway.PaymentCaptured,
    payment_gateway.PaymentDeclined,
    payment_gateway.PaymentNotCharged,
    payment_gateway.PaymentInDoubt,
    payment_gateway.PaymentNeedsDecision,
    payment_gateway.PaymentRefunded,
    payment_gateway.PaymentRefundInDoubt,
    payment_gateway.PaymentRefundFailed,
    payment_gateway.PaymentResolutionRefused,
)

BY_WIRE_NAME: dict[str, type[Contract]] = {message.wire_name: message for message in MESSAGES}

PUBLIC_COMMANDS: frozenset[str] = frozenset(
    message.wire_name for message in MESSAGES if issubclass(message, invoice.UpstreamCommand)
)
"""What upstream may send. Any other command on the public queue is refused, so that nobody outside can say "this invoice is paid"."""


def wire_name_without_version(wire_name: str) -> str:
    """`remit.invoice.PayInvoice.v1` -> `remit.invoice.PayInvoice`."""
    return wire_name.rpartition(".v")[0]
