"""Remit in memory, for the tests of a sender. The client is the real one; only the way to Remit, and Remit itself, are imitated.

One test-suite runs against this and against the real services (tests/kit in Remit's repository). What it knows of a token stands in
`ENDINGS`. It does not imitate sizes, headers, the scan for card data, staff, or other senders.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID, uuid5

from remit_kit.client import OnEvent, Remit
from remit_kit.commands import SOURCE, Command
from remit_kit.errors import NotConfirmed
from remit_kit.outcomes import Event

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
KEY_BITS = 2048
AMOUNT_MINOR_MAX = 999_999_999_999


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
    """The invoices and payments of a fake, and how it decides. A decision is None for accepted, or the reason of a rejection."""

    def __init__(self, endings: Mapping[str, str], read_card: Callable[[str, UUID], str]) -> None:
        self._endings = endings
        self._read_card = read_card
        self._invoices: dict[str, _Invoice] = {}
        self._payments: dict[UUID, str] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        """What happened and was not told yet: names of events with their data."""

    def decide(self, command: Command) -> str | None:
        """Carry the command out, or reject it."""
        data = command.data
        if not _is_valid(command):
            return "invalid_data"
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
        self._invoices[data["invoice_id"]] = _Invoice(data["amount_minor"], data["currency"])
        self.events.append(("InvoiceIssued", dict(data)))
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
        invoice.payment_id = payment_id
        self.settle(payment_id, self._ending(data["method"], payment_id))
        return None

    def _ending(self, method: Mapping[str, Any], payment_id: UUID) -> str:
        card = method["token"] if method["kind"] == "token" else self._read_card(method["jwe"], payment_id)
        return self._endings.get(card, "resource_missing" if method["kind"] == "token" else card)

    def settle(self, payment_id: UUID, ending: str) -> None:
        """End a payment that is pending or in doubt, or put it in doubt: an ending is as in `ENDINGS`."""
        invoice_id = self._payments[payment_id]
        invoice = self._invoices[invoice_id]
        about = {"invoice_id": invoice_id, "payment_id": str(payment_id)}
        match ending:
            case "paid":
                invoice.status = "paid"
                amount = {"amount_minor": invoice.amount_minor, "currency": invoice.currency}
                paid = {**about, **amount, "receipt_number": f"R-{payment_id}"}
                self.events.append(("InvoicePaid", paid))
            case "in_doubt":
                invoice.status = "in_doubt"
                self.events.append(("InvoicePaymentInDoubt", about))
            case reason:
                invoice.status = "open"
                was_asked = reason not in {"resource_missing", "decided_by_person"} and not reason.startswith("card_")
                outcome = "declined" if was_asked else "not_charged"
                reference = str(payment_id)[:8].upper()
                failed = {**about, "outcome": outcome, "reason": reason, "reference_code": reference}
                self.events.append(("InvoicePaymentFailed", failed))

    def _void(self, data: Mapping[str, Any], invoice: _Invoice) -> str | None:
        if (closed := _closed(invoice)) is not None:
            return closed
        invoice.status = "void"
        self.events.append(("InvoiceVoided", dict(data)))
        return None

    def _refund(self, data: Mapping[str, Any], invoice: _Invoice) -> str | None:
        refund_id = UUID(data["refund_id"])
        if invoice.status != "paid":
            return "not_paid"
        asked_minor = data.get("amount_minor")
        if refund_id == invoice.payment_id:
            return "refund_id_used"
        if refund_id in invoice.refunds:
            return None if invoice.asked[refund_id] == asked_minor else "refund_id_used"
        if data["currency"] != invoice.currency:
            return "currency_differs"
        if invoice.left_minor <= 0:
            return "nothing_to_refund"
        amount_minor = invoice.left_minor if asked_minor is None else asked_minor
        if amount_minor > invoice.left_minor:
            return "refund_too_large"
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


def _is_valid(command: Command) -> bool:
    """Whether texts and amounts are such as the schemas allow."""
    texts = [command.data.get(name, "-") for name in ("invoice_id", "customer_id", "reason")]
    least = 0 if command.name == "IssueInvoice" else 1
    amount_minor = command.data.get("amount_minor", 1)
    return (
        all(isinstance(text, str) and text.strip() for text in texts)
        and type(amount_minor) is int
        and least <= amount_minor <= AMOUNT_MINOR_MAX
        and re.fullmatch("[A-Z]{3}", command.data.get("currency", "EUR")) is not None
    )


def _closed(invoice: _Invoice) -> str | None:
    """Why an invoice can neither be paid nor voided."""
    return {
        "paid": "already_paid",
        "void": "invoice_void",
        "in_doubt": "payment_under_way",
    }.get(invoice.status)


class FakeRemit(Remit):
    """A `Remit` without a broker.

        async with FakeRemit() as remit:
            await remit.issue("INV-1", customer_id="C-1", amount_minor=100, currency="EUR")

    Make the trouble that your code has to stand: `confirms_to_lose` counts down, and each time a command arrives and its sender does not
    hear so; from `go_down` to `come_back` the broker takes commands and Remit answers nothing; `settle` ends a payment that is in doubt.
    `endings` says how payments end, in addition to `ENDINGS`.
    """

    def __init__(
        self, *, on_event: OnEvent | None = None, endings: Mapping[str, str] | None = None, source: str = SOURCE
    ) -> None:
        self._books = Books({**ENDINGS, **(endings or {})}, self._read_card)
        self._answered: dict[UUID, tuple[str, bytes]] = {}
        self._waiting: list[Command] = []
        self._is_down = False
        self._out: asyncio.Queue[tuple[str, bytes] | Event] = asyncio.Queue()
        self.confirms_to_lose = 0
        self.sent: list[Command] = []
        """Every command that was sent, each as often as it was."""
        self._begin(_Memory(self), on_event, listen=True, source=source)

    def go_down(self) -> None:
        """Remit is away; the broker still takes commands."""
        self._is_down = True

    def come_back(self) -> None:
        """Remit is there again, and handles what waits."""
        self._is_down = False
        waiting, self._waiting = self._waiting, []
        for command in waiting:
            self._handle(command)

    def settle(self, payment_id: UUID, ending: str) -> None:
        """A payment in doubt ends: `paid`, or the reason why it failed."""
        self._books.settle(payment_id, ending)
        self._tell()

    @cached_property
    def _key(self) -> Any:
        from joserfc.jwk import RSAKey  # noqa: PLC0415 - only who encrypts cards has the library

        return RSAKey.generate_key(KEY_BITS, {"use": "enc", "alg": "RSA-OAEP-256", "kid": "fake"})

    @property
    def card_keys(self) -> dict[str, Any]:
        """The public keys for `encrypt_card`, as Remit publishes them."""
        return {"keys": [self._key.as_dict(private=False)]}

    def _read_card(self, jwe: str, payment_id: UUID) -> str:
        from joserfc import jwe as jose  # noqa: PLC0415
        from joserfc.errors import JoseError  # noqa: PLC0415

        from remit_kit.cards import REGISTRY  # noqa: PLC0415

        try:
            read = jose.decrypt_compact(jwe, self._key, registry=REGISTRY)
        except (JoseError, ValueError):
            return "card_unreadable"
        if read.headers()["remit.payment_id"] != str(payment_id):
            return "card_not_for_this_payment"
        return str(json.loads(read.plaintext or b"{}")["number"])

    def _receive(self, command: Command) -> None:
        """As the broker: take the command, and confirm it or not."""
        self.sent.append(command)
        if self._is_down:
            self._waiting.append(command)
        else:
            self._handle(command)
        if self.confirms_to_lose > 0:
            self.confirms_to_lose -= 1
            raise NotConfirmed("the confirm was lost")

    def _handle(self, command: Command) -> None:
        content = json.dumps([command.name, command.data], sort_keys=True)
        if command.id not in self._answered:
            reason = self._books.decide(command)
            told = _answer(command.id, reason)
            self._answered[command.id] = (content, told)
        before, told = self._answered[command.id]
        if before != content:
            told = _answer(command.id, "command_id_reused")
        self._out.put_nowait((command.correlation_id, told))
        self._tell()

    def _tell(self) -> None:
        """Publish what happened."""
        events, self._books.events = self._books.events, []
        for name, data in events:
            about = data.get("refund_id") or data.get("payment_id") or data["invoice_id"]
            id_ = uuid5(UUID(int=0), f"{name} {about}")
            self._out.put_nowait(Event(str(id_), name, "2026-01-01T00:00:00+00:00", data))

    async def _deliver(self) -> None:
        """Hand over answers and events, one after the other."""
        while True:
            match await self._out.get():
                case (correlation_id, answer):
                    self._take_answer(correlation_id, answer)
                case Event() as event:
                    await self._take_event(event)


def _answer(command_id: UUID, reason: str | None) -> bytes:
    data = {
        "command_id": str(command_id),
        "answer": "accepted" if reason is None else "rejected",
        "reason": reason,
        "detail": None,
    }
    event = {"id": str(uuid5(command_id, "answer")), "type": "remit.invoice.CommandAnswered.v1", "data": data}
    return json.dumps(event).encode()


class _Memory:
    """The way to a fake. See `remit_kit.client.Transport`."""

    def __init__(self, fake: FakeRemit) -> None:
        self._fake = fake

    async def open(self, _on_answer: Callable[[str, bytes], None], _on_event: OnEvent) -> None:
        """Begin to deliver."""
        self._delivering = asyncio.create_task(self._fake._deliver())  # noqa: SLF001 - two halves of one thing

    async def send(self, command: Command) -> None:
        """Hand the command over."""
        self._fake._receive(command)  # noqa: SLF001

    async def close(self) -> None:
        """End the delivery."""
        self._delivering.cancel()
        await asyncio.gather(self._delivering, return_exceptions=True)
