"""The invoices and payments of the fake, and how Remit decides about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from remit_kit.commands import Command
from remit_kit.rules import RULES, Refusal, refused

PAID = "paid"
IN_DOUBT = "in_doubt"
ENDINGS = {
    "pm_card_visa": PAID,
    "pm_card_mastercard": PAID,
    "pm_card_chargeDeclined": "generic_decline",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_chargeDeclinedExpiredCard": "expired_card",
    "pm_card_authenticationRequired": "authentication_required",
    "pm_remit_broken_for_good": IN_DOUBT,
    "4242424242424242": PAID,
    "5555555555554444": PAID,
    "4000000000000002": "generic_decline",
    "4000000000009995": "insufficient_funds",
}
"""How a payment ends: paid, in doubt, or declined with this code. Tokens and test cards are those of the sandbox gateway."""
ADVICE = {
    "expired_card": "confirm_card_data",
    "generic_decline": "do_not_try_again",
    "insufficient_funds": "try_again_later",
}
"""What the bank advises with a decline, as in the sandbox."""
UNKNOWN_TOKEN = "resource_missing"  # noqa: S105 - a reason
UNKNOWN_CARD = "test_mode_live_card"
NOT_CHARGED = frozenset(
    {UNKNOWN_TOKEN, UNKNOWN_CARD, "decided_by_person", "card_unreadable", "card_key_unknown", "card_not_for_this_payment"}
)  # fmt: skip
"""Reasons with which no bank was asked. With any other one the bank declined."""


@dataclass(slots=True)
class _Invoice:
    amount_minor: int
    currency: str
    status: str = "open"
    payment_id: UUID | None = None
    refunds: dict[UUID, int] = field(default_factory=dict)
    asked: dict[UUID, int | None] = field(default_factory=dict)

    @property
    def left_minor(self) -> int:
        return self.amount_minor - sum(self.refunds.values())


class Books:
    """The invoices and payments of a fake, and how it decides. A decision is None for accepted, or why it is rejected.

    `read_card` reads an encrypted card: it returns the number, or raises `CardRefused`.
    """

    def __init__(self, endings: Mapping[str, str], read_card: Callable[[str, UUID], str]) -> None:
        self._endings = endings
        self._read_card = read_card
        self._invoices: dict[str, _Invoice] = {}
        self._payments: dict[UUID, str] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        """What happened and was not told yet: names of events with their data."""

    def decide(self, command: Command) -> Refusal | None:
        """Carry the command out, or reject it."""
        if (unfit := refused(command)) is not None:
            return unfit
        reason = self._decide(command, command.data)
        return None if reason is None else Refusal(reason)

    def _decide(self, command: Command, data: Mapping[str, Any]) -> str | None:
        invoice = self._invoices.get(data["invoice_id"])
        match command.name:
            case "IssueInvoice":
                return self._issue(data, invoice)
            case _ if invoice is None:
                return "unknown_invoice"
            case "PayInvoice":
                return self._pay(data, invoice)
            case "VoidInvoice":
                return self._void(data, invoice)
            case "RefundInvoice":
                return self._refund(data, invoice)

    def _issue(self, data: Mapping[str, Any], invoice: _Invoice | None) -> str | None:
        if invoice is not None:
            return "already_issued"
        if data["amount_minor"] == 0:
            return "nothing_to_pay"
        if data["currency"] in RULES["currencies_not_chargeable"]:
            return "currency_not_chargeable"
        if not _is_chargeable(data["amount_minor"], data["currency"]):
            return "amount_not_chargeable"
        self._invoices[data["invoice_id"]] = _Invoice(data["amount_minor"], data["currency"])
        told = ("invoice_id", "customer_id", "amount_minor", "currency")
        self.events.append(("InvoiceIssued", {name: data[name] for name in told}))
        return None

    def _pay(self, data: Mapping[str, Any], invoice: _Invoice) -> str | None:
        payment_id = UUID(data["payment_id"])
        if (closed := _closed(invoice)) is not None:
            return closed
        if payment_id in self._payments:
            return "payment_id_used"
        if data["currency"] != invoice.currency:
            return "currency_differs"
        if data["amount_minor"] != invoice.amount_minor:
            return "amount_differs"
        self._payments[payment_id] = data["invoice_id"]
        invoice.payment_id, invoice.status = payment_id, "pending"
        self.settle(payment_id, self._ending(data["method"], payment_id))
        return None

    def _ending(self, method: Mapping[str, Any], payment_id: UUID) -> str:
        if method["kind"] == "token":
            return self._endings.get(method["token"], UNKNOWN_TOKEN)
        try:
            return self._endings.get(self._read_card(method["jwe"], payment_id), UNKNOWN_CARD)
        except CardRefused as unreadable:
            return str(unreadable)

    def settle(self, payment_id: UUID, ending: str) -> None:
        """End a payment that is pending or in doubt, or put it in doubt: an ending is as in `ENDINGS`. Raises ValueError for any other."""
        invoice_id = self._payments.get(payment_id, "")
        invoice = self._invoices.get(invoice_id)
        if invoice is None or invoice.payment_id != payment_id or invoice.status not in {"pending", "in_doubt"}:
            raise ValueError(f"there is no payment {payment_id} that is pending or in doubt")
        about = {"invoice_id": invoice_id, "payment_id": str(payment_id)}
        match ending:
            case "paid":
                invoice.status = "paid"
                amount = {"amount_minor": invoice.amount_minor, "currency": invoice.currency}
                self.events.append(("InvoicePaid", {**about, **amount, "receipt_number": f"R-{payment_id}"}))
            case "in_doubt" if invoice.status == "pending":
                invoice.status = "in_doubt"
                self.events.append(("InvoicePaymentInDoubt", about))
            case "in_doubt":
                pass
            case reason:
                invoice.status = "open"
                self.events.append(("InvoicePaymentFailed", {**about, **_failure(payment_id, reason)}))

    def _void(self, data: Mapping[str, Any], invoice: _Invoice) -> str | None:
        if (closed := _closed(invoice)) is not None:
            return closed
        invoice.status = "void"
        reason = data["reason"].strip(RULES["white_space"])
        self.events.append(("InvoiceVoided", {"invoice_id": data["invoice_id"], "reason": reason}))
        return None

    def _refund(self, data: Mapping[str, Any], invoice: _Invoice) -> str | None:
        refund_id, asked_minor = UUID(data["refund_id"]), data.get("amount_minor")
        if invoice.status != "paid":
            return "not_paid"
        if refund_id == invoice.payment_id:
            return "refund_id_used"
        if refund_id in invoice.refunds:
            return None if invoice.asked[refund_id] == asked_minor else "refund_id_used"
        amount_minor = invoice.left_minor if asked_minor is None else asked_minor
        if (unfit := _unfit_refund(data["currency"], amount_minor, invoice)) is not None:
            return unfit
        invoice.refunds[refund_id], invoice.asked[refund_id] = amount_minor, asked_minor
        refunded = {
            "invoice_id": data["invoice_id"],
            "payment_id": str(invoice.payment_id),
            "refund_id": str(refund_id),
            "amount_minor": amount_minor,
            "currency": invoice.currency,
            "refunded_minor": sum(invoice.refunds.values()),
            "version": len(invoice.refunds) + 1,
        }
        self.events.append(("InvoiceRefunded", refunded))
        return None


class CardRefused(Exception):
    """An encrypted card cannot be used. The text is the reason."""


def _unfit_refund(currency: str, amount_minor: int, invoice: _Invoice) -> str | None:
    if currency != invoice.currency:
        return "currency_differs"
    if len(invoice.refunds) >= RULES["limits"]["refunds_max"]:
        return "too_many_refunds"
    if invoice.left_minor <= 0:
        return "nothing_to_refund"
    if amount_minor > invoice.left_minor:
        return "refund_too_large"
    return None if _is_chargeable(amount_minor, currency) else "amount_not_chargeable"


def _is_chargeable(amount_minor: int, currency: str) -> bool:
    return bool(amount_minor % RULES["chargeable_steps"].get(currency, 1) == 0)


def _failure(payment_id: UUID, reason: str) -> dict[str, Any]:
    """What `InvoicePaymentFailed` says besides what it is about."""
    failed = {
        "outcome": "not_charged" if reason in NOT_CHARGED else "declined",
        "reason": reason,
        "reference_code": f"PF-{str(payment_id)[:8].upper()}",
    }
    return failed | ({"advice": ADVICE[reason]} if reason in ADVICE else {})


def _closed(invoice: _Invoice) -> str | None:
    """Why an invoice can neither be paid nor voided."""
    return {
        "paid": "already_paid",
        "void": "invoice_void",
        "pending": "payment_under_way",
        "in_doubt": "payment_under_way",
    }.get(invoice.status)
