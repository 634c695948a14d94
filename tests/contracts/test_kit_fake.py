"""The fake of the kit decides as the invoice service does: the same drawn commands, the same answers, the same events."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remit_kit import Command, Token, issue_invoice, pay_invoice, refund_invoice, void_invoice
from remit_kit.books import ADVICE, ENDINGS, IN_DOUBT, NOT_CHARGED, PAID, Books
from remit_kit.outcomes import EVENTS
from remit_kit.rules import Refusal, refused

from deploy.contract import kit_rules
from deploy.sandbox import faults
from services.invoice import domain, refunds
from services.invoice.handlers import InvoiceHandler, announce
from services.invoice.store import Loaded, NewEvent
from shared.contracts import schemas
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.messaging.codec import STRUCTURED, Malformed, decode
from shared.messaging.envelope import Inbound
from tests.support.drawn import Drawn

DRAWN = int(os.environ.get("REMIT_DRAWN", "3000"))
STEPS_MAX = 12

Told = list[tuple[str, dict[str, Any]]]


def test_the_rules_of_the_fake_are_those_of_the_services() -> None:
    committed = kit_rules.PATH.read_text(encoding="utf-8")
    assert committed == kit_rules.text(), "shared/kit/remit_kit/rules.json is stale: run `make schema`"


# -- before an invoice is looked at ----------------------------------------------------------------------------------------------------


def border(command: Command) -> Malformed | None:
    read = decode(command.to_json().encode(), content_type=STRUCTURED)
    return read if isinstance(read, Malformed) else None


def compared(command: Command) -> str | None:
    """The reason that both give. Card data is looked for by the service alone."""
    theirs, ours = border(command), refused(command)
    if theirs is not None and theirs.reason.is_card_data:
        return theirs.reason
    assert (ours and ours.reason) == (theirs and theirs.reason), (command.to_json(), ours, theirs)
    if ours is not None and ours.detail is not None and theirs is not None:
        path, _, _ = ours.detail.partition(":")
        assert path in theirs.detail, (command.to_json(), ours.detail, theirs.detail)
    return None if ours is None else ours.reason


@pytest.mark.parametrize("name", sorted(PUBLIC_COMMANDS))
def test_a_command_is_refused_if_and_only_if_the_service_refuses_it(name: str) -> None:
    message = BY_WIRE_NAME[name]
    document, of_data, seen = schemas.committed(name), {"$ref": f"#/$defs/{message.__name__}"}, Counter[str | None]()
    for seed in range(DRAWN // len(PUBLIC_COMMANDS)):
        draw = Drawn(document, seed)
        data = draw.inside(of_data)
        if seed % 2:
            data = draw.outside(of_data, data)
        seen[compared(Command(uuid4(), message.__name__, data, time="2026-11-28T12:00:00Z"))] += 1  # type: ignore[arg-type]
    assert seen[None] > DRAWN // 16, seen
    assert seen["invalid_data"] > DRAWN // 64, seen


def nested(levels: int) -> list[Any]:
    made: list[Any] = json.loads("[" * levels + "]" * levels)
    return made


ODD: dict[str, dict[str, Any]] = {
    "too_large": {"more": "x" * 65_536},
    "too_deep": {"more": nested(31)},
    "number_too_long": {"more": 10**19},
    "nul_character": {"reason": "a\x00b"},
    "lone_surrogate": {"reason": "\ud800"},
    "not_json": {"more": float("inf")},
    "invalid_data": {"reason": " \t"},
}
FITTING: list[dict[str, Any]] = [
    {"more": nested(30)},
    {"more": [0] * 980},
    {"more": 10**19 - 1},
    {"more": -(2**63)},
    {"more": 1e300},
    {"reason": "\U0001f600"},
]


@pytest.mark.parametrize("reason", ODD)
def test_what_no_service_reads_the_fake_does_not_read(reason: str) -> None:
    assert (
        compared(Command.new("VoidInvoice", {"invoice_id": "INV-1", "reason": "r"} | ODD[reason], command_id=None))
        == reason
    )


def test_a_thousand_values_are_too_many() -> None:
    assert (
        compared(
            Command.new("VoidInvoice", {"invoice_id": "INV-1", "reason": "r", "more": [0] * 1_001}, command_id=None)
        )
        == "too_large"
    )
    assert compared(void_invoice("INV-1", reason="r", source="")) == "not_a_cloud_event"


@pytest.mark.parametrize("more", FITTING, ids=str)
def test_what_is_just_within_the_limits_both_take(more: dict[str, Any]) -> None:
    assert compared(Command.new("VoidInvoice", {"invoice_id": "INV-1", "reason": "r"} | more, command_id=None)) is None


# -- decisions -------------------------------------------------------------------------------------------------------------------------


@dataclass
class InvoiceService:
    """The border and the decisions of the invoice service, and what the others would report to it."""

    invoices: dict[str, Loaded] = field(default_factory=dict)
    used_payment_ids: set[UUID] = field(default_factory=set)
    told: Told = field(default_factory=list)

    def decide(self, command: Command) -> str | None:
        read = decode(command.to_json().encode(), content_type=STRUCTURED)
        if isinstance(read, Malformed):
            return read.reason
        return self.handle(read)

    def handle(self, message: Inbound) -> str | None:
        key = message.data.subject()
        state = self.invoices.get(key, Loaded(domain.Invoice(key), self.used_payment_ids))
        reaction = InvoiceHandler().react(state, message)
        self.invoices[key] = reaction.state
        events = [effect.event for effect in reaction.effects if isinstance(effect, NewEvent)]
        self._tell(key, events)
        for event in events:
            self._follow(key, event)
        (result,) = (effect for effect in reaction.effects if hasattr(effect, "reason"))
        return result.reason

    def _follow(self, key: str, event: domain.Event) -> None:
        """What the gateway makes of a request at once."""
        match event:
            case domain.PaymentRequested():
                self.settle(event.payment_id, ENDINGS.get(event.method.fingerprint, "resource_missing"))
            case refunds.RefundRequested():
                invoice = self.invoices[key].invoice
                rest = invoice.amount_minor - refunds.given_back_minor(invoice.refunds)
                amount_minor = rest if event.amount_minor is None else event.amount_minor
                about = (event.payment_id, event.refund_id, amount_minor, event.currency)
                self._carry_out(key, refunds.RecordRefund(*about, len(invoice.refunds) + 1))
            case _:
                pass

    def settle(self, payment_id: UUID, ending: str) -> None:
        (key,) = (key for key, loaded in self.invoices.items() if loaded.invoice.payment_id == payment_id)
        invoice = self.invoices[key].invoice
        match ending:
            case "paid":
                receipt = f"R-{payment_id}"
                self._carry_out(key, domain.RecordPayment(payment_id, invoice.amount_minor, invoice.currency, receipt))
            case "in_doubt":
                self._carry_out(key, domain.FlagPaymentInDoubt(payment_id))
            case reason:
                outcome: domain.FailureOutcome = "not_charged" if reason in NOT_CHARGED else "declined"
                failed = domain.RecordPaymentFailure(payment_id, outcome, reason, ADVICE.get(reason))
                self._carry_out(key, failed)

    def _carry_out(self, key: str, command: domain.Command) -> None:
        loaded = self.invoices[key]
        decided = domain.decide(command, loaded.invoice)
        assert not isinstance(decided, domain.RejectionReason)
        invoice = loaded.invoice
        for event in decided:
            invoice = domain.evolve(invoice, event)
        self.invoices[key] = Loaded(invoice, self.used_payment_ids)
        self._tell(key, decided)

    def _tell(self, key: str, events: Any) -> None:
        for event in events:
            message = announce(event, key, None)
            if type(message).__name__ in EVENTS:
                self.told.append((type(message).__name__, json.loads(message.model_dump_json())))


PAYMENTS = [UUID(int=number) for number in range(1, 5)]
REFUNDS = [UUID(int=number) for number in range(4, 7)]
FAIR = [(12500, "EUR"), (1010, "KWD"), (200, "MGA"), (700, "ISK")]
ODD_PRICES = [
    *((odd, "EUR") for odd in (0, -1, 10**12 - 1, 10**12, 1.5)),
    *((12500, "USD"), (1001, "KWD"), (150, "MGA"), (700, "BGN"), (100, "ABC"), (100, "eur")),
]
TOKENS = ["pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined", "pm_remit_broken_for_good", "pm_nobody_knows", "x"]
ENDS = [PAID, IN_DOUBT, "decided_by_person"]
Step = Command | tuple[UUID, str]


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Two invoices, and what is asked about them: mostly in one price, so that most of it could be done."""
    fair = draw(st.sampled_from(FAIR))
    first: list[Step] = [
        *(_issue(invoice, fair, "C-1") for invoice in "AB"),
        _pay("A", fair, "pm_card_visa", PAYMENTS[3]),
        _pay("B", fair, draw(st.sampled_from(["pm_card_chargeDeclined", "pm_remit_broken_for_good"])), PAYMENTS[0]),
        _refund("A", None, fair, "goodwill", REFUNDS[2]),
    ]
    begun = draw(st.sampled_from([2, 4, 4, 5]))
    return first[:begun] + draw(st.lists(_steps(fair), min_size=STEPS_MAX // 2, max_size=STEPS_MAX))


def _steps(fair: tuple[int, str]) -> st.SearchStrategy[Step]:
    invoices = st.sampled_from("AABC")
    other = (fair[0] + 100, fair[1])
    prices = st.sampled_from([fair] * 2 * len(ODD_PRICES) + [other] * 3 + ODD_PRICES)
    payments = st.sampled_from(PAYMENTS)
    texts = st.sampled_from(["damaged"] * 6 + [" spaces around ", "", " ", "x" * 1_001])
    asked = st.sampled_from([None, None, fair[0], 1, 5, 10, 100, fair[0] - 1, fair[0] + 100, 0])
    refunded = st.builds(_refund, st.sampled_from("AAAB"), asked, prices, texts, st.sampled_from(REFUNDS))
    return st.one_of(
        st.builds(
            _issue, st.sampled_from("ACDE"), st.sampled_from([fair, *ODD_PRICES]), st.sampled_from(["C-1", "C-1", "\n"])
        ),
        st.builds(_pay, invoices, prices, st.sampled_from(TOKENS), payments),
        st.builds(lambda invoice, reason: void_invoice(invoice, reason=reason), invoices, texts),
        refunded,
        refunded,
        st.tuples(payments, st.sampled_from(ENDS)),
    )


def _issue(invoice: str, price: tuple[Any, str], customer: str) -> Command:
    return issue_invoice(invoice, customer_id=customer, amount_minor=price[0], currency=price[1])


def _pay(invoice: str, price: tuple[Any, str], token: str, payment: UUID) -> Command:
    return pay_invoice(invoice, amount_minor=price[0], currency=price[1], method=Token(token), payment_id=payment)


def _refund(invoice: str, part: int | None, price: tuple[Any, str], reason: str, refund: UUID) -> Command:
    return refund_invoice(invoice, amount_minor=part, currency=price[1], reason=reason, refund_id=refund)


def told(events: Told) -> Told:
    """What can be compared: a reference code is of no form that anybody reads, and what has no value may be absent."""
    return [
        (name, {key: value for key, value in data.items() if value is not None and key != "reference_code"})
        for name, data in events
    ]


def in_doubt(service: InvoiceService, payment_id: UUID) -> bool:
    pending = {domain.InvoiceStatus.IN_DOUBT}
    return any(
        one.invoice.payment_id == payment_id and one.invoice.status in pending for one in service.invoices.values()
    )


def test_the_fake_decides_as_the_service_does() -> None:
    """And every reason was met, but for the one that takes a hundred refunds."""
    met = set[str]()

    @settings(max_examples=max(DRAWN // 10, 100), deadline=None, derandomize=True, database=None)
    @given(history=histories())
    def compare(history: list[Step]) -> None:
        met.update(_compared_history(history))

    compare()
    assert met >= set(domain.RejectionReason) - {"too_many_refunds"}


def _compared_history(history: list[Step]) -> set[str]:
    """The reasons that both gave."""
    met = set[str]()
    fake, service = Books(ENDINGS, lambda *_: "no card"), InvoiceService()
    for step in history:
        if isinstance(step, Command):
            ours, theirs = fake.decide(step), service.decide(step)
            assert (ours and ours.reason) == theirs, (step.to_json(), ours, theirs)
            met |= {theirs} if theirs is not None else set()
        elif in_doubt(service, step[0]):
            fake.settle(*step)
            service.settle(*step)
        else:
            with pytest.raises(ValueError, match="no payment"):
                fake.settle(*step)
        assert told(fake.events) == told(service.told)
    return met


def test_a_hundred_refunds_are_enough_for_both() -> None:
    fake, service = Books(ENDINGS, lambda *_: "no card"), InvoiceService()
    price: dict[str, Any] = {"amount_minor": 12500, "currency": "EUR"}
    steps = [issue_invoice("A", customer_id="C-1", **price), pay_invoice("A", **price, method=Token("pm_card_visa"))]
    steps += [refund_invoice("A", amount_minor=1, currency="EUR", reason="r") for _ in range(refunds.REFUNDS_MAX)]
    for step in steps:
        assert fake.decide(step) is None
        assert service.decide(step) is None
    last = refund_invoice("A", amount_minor=1, currency="EUR", reason="r")
    assert fake.decide(last) == Refusal("too_many_refunds")
    assert service.decide(last) == "too_many_refunds"


def test_what_the_fake_knows_of_tokens_is_what_the_sandbox_does() -> None:
    for known, ending in ENDINGS.items():
        assert faults.behaviour_of(faults.CARDS.get(known, known)) is not None, known
        assert ADVICE.get(ending) == faults.ADVICE.get(ending)
