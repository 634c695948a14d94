"""Laws over random histories: messages are lost, doubled and reordered, deadlines fire at any moment, invoice and gateway answer, and the
invoice loses commits.

The invoice is the real one. The payment gateway is a model of its outcomes: versions, and one announcement a version, repeated on request.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import event as seen
from hypothesis import given, settings
from hypothesis import strategies as st

from services.invoice import domain as invoices
from services.saga.domain import (
    Capture,
    Captured,
    DeadlineFired,
    Declined,
    Fact,
    InDoubt,
    NeedsDecision,
    NotCharged,
    Paid,
    PaymentFailed,
    PaymentRequested,
    RecordPayment,
    Refunded,
    RefundFailed,
    RefundInDoubt,
    RefundPayment,
    ReminderSchedule,
    Saga,
    SagaStatus,
    SettlementRejected,
    reminders,
    transition,
)
from services.saga.domain import Command as SagaCommand
from services.saga.domain import FlagPaymentInDoubt as Flag
from services.saga.domain import InquirePayment as Inquire
from services.saga.domain import RecordPaymentFailure as RecordFailure

PATIENCE = ReminderSchedule((10.0, 20.0, 60.0))
PAYMENT, OTHER = UUID(int=1), UUID(int=2)
INVOICE = "INV-1"
METHOD = invoices.MethodSummary("token", "tok_visa")
ROUNDS_MAX = 40
"""Rounds of healing; a history of forty steps ends after far fewer."""

# -- the law of one saga: any facts in any order -----------------------------------------------------------------------------------------

VERSIONS = st.integers(1, 9)
FACTS = st.one_of(
    st.just(PaymentRequested()),
    st.just(Paid()),
    st.just(PaymentFailed("declined", "do_not_honor")),
    st.just(SettlementRejected("payment_not_awaited")),
    st.builds(Captured, VERSIONS, st.just(1_000), st.just("EUR"), st.just("R-1")),
    st.builds(Declined, VERSIONS, st.just("do_not_honor")),
    st.builds(NotCharged, VERSIONS, st.just("never_sent")),
    st.builds(InDoubt, VERSIONS),
    st.builds(NeedsDecision, VERSIONS),
    st.builds(Refunded, VERSIONS),
    st.builds(RefundInDoubt, VERSIONS),
    st.builds(RefundFailed, VERSIONS, closed=st.booleans()),
    st.builds(DeadlineFired, st.integers(1, 6)),
)
MONEY_BACK = {SagaStatus.REFUNDING, SagaStatus.REFUND_IN_DOUBT, SagaStatus.REFUNDED, SagaStatus.NOT_REFUNDED}
ENDS = {
    SagaStatus.COMPLETED: {SagaStatus.REFUNDED},
    SagaStatus.REFUNDED: {SagaStatus.REFUND_IN_DOUBT, SagaStatus.NOT_REFUNDED},
    SagaStatus.NOT_REFUNDED: {SagaStatus.REFUNDED, SagaStatus.REFUND_IN_DOUBT},
}
"""States to which a saga that has ended may still move."""


@settings(max_examples=500)
@given(st.lists(FACTS, max_size=30))
def test_no_history_breaks_a_saga(facts: list[Fact]) -> None:
    saga = Saga(PAYMENT, INVOICE)
    said: list[SagaCommand] = []
    for fact in facts:
        step = transition(saga, fact, PATIENCE)
        assert step.saga.status is saga.status or step.saga.status in ENDS.get(saga.status, set(SagaStatus))
        assert not reminders(step.saga) or step.saga.deadline_s is not None
        assert step.saga.payment_version >= saga.payment_version
        if not isinstance(fact, DeadlineFired | PaymentRequested):  # these two ask, and are answered each time
            assert transition(step.saga, fact, PATIENCE).says == ()
            said += step.says
        saga = step.saga
    once = [command for command in said if isinstance(command, RecordPayment | RecordFailure | Flag | RefundPayment)]
    assert len({type(command) for command in once}) == len(once)  # each at most once, without the answers
    if any(isinstance(fact, Captured) for fact in facts):
        assert saga.status in {SagaStatus.SETTLING, SagaStatus.COMPLETED, *MONEY_BACK}  # no capture is ever ignored


HISTORIES: dict[str, tuple[tuple[Fact, ...], set[SagaStatus]]] = {
    "paid": ((PaymentRequested(), Captured(3, 1_000, "EUR", "R"), Paid()), {SagaStatus.COMPLETED}),
    "paid after doubt": (
        (PaymentRequested(), InDoubt(3), NeedsDecision(6), Captured(7, 1_000, "EUR", "R"), Paid()),
        {SagaStatus.COMPLETED},
    ),
    "declined": (
        (PaymentRequested(), InDoubt(2), Declined(3, "no"), PaymentFailed("declined", "no")),
        {SagaStatus.FAILED},
    ),
    "not charged after all": (
        (InDoubt(2), NeedsDecision(4), NotCharged(5, "decided"), PaymentFailed("not_charged", "decided")),
        {SagaStatus.FAILED},
    ),
    "rejected and refunded": (
        (PaymentRequested(), Captured(2, 1_000, "EUR", "R"), SettlementRejected("void"), Refunded(4)),
        {SagaStatus.REFUNDED},
    ),
    "rejected, refund decided by a person": (
        (Captured(2, 1_000, "EUR", "R"), SettlementRejected("void"), RefundInDoubt(4), RefundFailed(5, closed=True)),
        {SagaStatus.NOT_REFUNDED},
    ),
    "refunded, and sent back by the bank days later": (
        (Captured(2, 1_000, "EUR", "R"), SettlementRejected("void"), Refunded(4), RefundFailed(5, closed=False)),
        {SagaStatus.REFUND_IN_DOUBT},
    ),
    "failed, captured late, refunded": (
        (
            Declined(2, "no"),
            PaymentFailed("declined", "no"),
            Captured(3, 1_000, "EUR", "R"),
            RefundInDoubt(5),
            Refunded(6),
        ),
        {SagaStatus.REFUNDED},
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_same_facts_end_alike_in_every_order(name: str) -> None:
    facts, ends = HISTORIES[name]
    for order in permutations(facts):
        saga = Saga(PAYMENT, INVOICE)
        for fact in order:
            saga = transition(saga, fact, PATIENCE).saga
        assert {saga.status} == ends, order


# -- the law of the whole: whatever is lost, all agree in the end ------------------------------------------------------------------------


@dataclass
class ModelGateway:
    """The payment gateway's row. Its last announcement is repeated when asked, and that of a late capture until a refund was ordered: a
    saga that has ended does not ask for it."""

    sent: bool = False
    state: str = ""
    version: int = 0
    captured: bool = False
    late: bool = False
    last: Fact | None = None

    def request(self) -> None:
        if not self.state:
            self.state, self.version, self.sent = "requested", 1, True

    def inquire(self) -> Fact | None:
        return self.last

    def refund(self) -> Fact | None:
        if self.state == "captured":
            self.state, self.version = "refunding", self.version + 1
        return self.last if self.state != "refunding" else None

    def turns(self) -> tuple[str, ...]:
        """The states that it may reach by itself, or by a person."""
        if self.sent and not self.captured and self.state in {"declined", "not_charged"}:
            return ("captured",)
        return {
            "requested": ("captured", "declined", "not_charged", "in_doubt"),
            "in_doubt": ("captured", "declined", "not_charged", "needs_decision"),
            "needs_decision": ("captured", "not_charged", "in_doubt"),
            "refunding": ("refunded", "refund_in_doubt", "refund_failed"),
            "refund_in_doubt": ("refunded", "refund_failed", "not_refunded"),
            "refund_failed": ("refunded", "not_refunded"),
        }.get(self.state, ())

    def turn(self, state: str, amount_minor: int = 1_000) -> Fact:
        self.late = self.state in {"declined", "not_charged"}
        self.state, self.version = state, self.version + 1
        self.captured = self.captured or state == "captured"
        make: dict[str, Callable[[], Fact]] = {
            "captured": lambda: Captured(self.version, amount_minor, "EUR", "R-1"),
            "declined": lambda: Declined(self.version, "do_not_honor"),
            "not_charged": lambda: NotCharged(self.version, "never_sent"),
            "in_doubt": lambda: InDoubt(self.version),
            "needs_decision": lambda: NeedsDecision(self.version),
            "refunded": lambda: Refunded(self.version),
            "refund_in_doubt": lambda: RefundInDoubt(self.version),
            "refund_failed": lambda: RefundFailed(self.version, closed=False),
            "not_refunded": lambda: RefundFailed(self.version, closed=True),
        }
        self.last = make[state]()
        return self.last


REQUESTED_AT = 1
"""The place of the request among the events of the invoice."""

Message = tuple[str, Fact | SagaCommand | str]
"""Receiver and content. Equal messages have the same id."""


@dataclass
class ModelWorld:
    """Saga, invoice and gateway, and the messages between them. A fact is recognised by its content; the real one is by its id."""

    amount_minor: int
    saga: Saga = field(default_factory=lambda: Saga(PAYMENT, INVOICE))
    invoice: invoices.Invoice = field(default_factory=lambda: invoices.Invoice(INVOICE))
    events: list[invoices.Event] = field(default_factory=list)
    gateway: ModelGateway = field(default_factory=ModelGateway)
    heard: set[Fact] = field(default_factory=set)
    under_way: list[Message] = field(default_factory=list)

    def start(self) -> None:
        self.command(invoices.Issue("C-1", 1_000, "EUR"))
        self.command(invoices.Pay(PAYMENT, 1_000, "EUR", METHOD, payment_id_used=False))

    def command(self, command: invoices.Command) -> None:
        decided = invoices.decide(command, self.invoice)
        if isinstance(decided, invoices.RejectionReason):
            return
        self.invoice = reduce(invoices.evolve, decided, self.invoice)
        self.events += decided
        again = [
            e
            for e in self.events
            if isinstance(command, invoices.RecordPayment | invoices.RecordPaymentFailure) and not decided
        ]
        for event in [*decided, *again]:
            self.announce(event)

    def announce(self, event: invoices.Event, *, overdue: bool = False) -> None:
        if getattr(event, "payment_id", None) != PAYMENT:
            return
        match event:
            case invoices.PaymentRequested():
                self.under_way.append(("gateway", "request"))
                if overdue:
                    self.under_way.append(("saga", PaymentRequested()))
            case invoices.Paid():
                self.under_way.append(("saga", Paid()))
            case invoices.PaymentFailed():
                self.under_way.append(("saga", PaymentFailed(event.outcome, event.reason)))
            case invoices.SettlementRejected():
                self.under_way.append(("saga", SettlementRejected(event.reason)))
            case _:
                pass  # the saga does not receive it

    def turn(self, state: str) -> None:
        self.tell_saga(self.gateway.turn(state, self.amount_minor))

    def tell_saga(self, fact: Fact | None) -> None:
        if fact is not None:
            self.under_way.append(("saga", fact))

    def fire(self, number: int) -> None:
        self.advance(DeadlineFired(number))

    def advance(self, fact: Fact) -> None:
        step = transition(self.saga, fact, PATIENCE)
        self.saga = step.saga
        for command in step.says:
            to = "gateway" if isinstance(command, Inquire | RefundPayment) else "invoice"
            self.under_way.append((to, command))

    def deliver(self, message: Message) -> None:
        match message:
            case ("gateway", "request"):
                self.gateway.request()
            case ("gateway", Inquire()):
                self.tell_saga(self.gateway.inquire())
            case ("gateway", RefundPayment()):
                self.tell_saga(self.gateway.refund())
            case ("invoice", RecordPayment(Capture(amount_minor, currency, receipt))):
                self.command(invoices.RecordPayment(PAYMENT, amount_minor, currency, receipt))
            case ("invoice", RecordFailure(failure)):
                self.command(invoices.RecordPaymentFailure(PAYMENT, failure.outcome, failure.reason))
            case ("invoice", Flag()):
                self.command(invoices.FlagPaymentInDoubt(PAYMENT))
            case ("saga", PaymentRequested() as asked):  # it has another id each time
                self.advance(asked)
            case ("saga", fact) if fact not in self.heard:
                assert isinstance(fact, Fact)
                self.heard.add(fact)
                self.advance(fact)

    def fail_over(self) -> None:
        """The invoice service loses its last commit, if that told what became of the payment. Its messages may have left already."""
        if getattr(self.events[-1], "payment_id", None) == PAYMENT and len(self.events) > REQUESTED_AT + 1:
            self.events.pop()
            self.invoice = invoices.replay(INVOICE, self.events)

    @property
    def is_pending(self) -> bool:
        return self.invoice.payment_id == PAYMENT and self.invoice.status in PENDING

    def remind(self) -> None:
        """Announce again whatever is pending."""
        if self.is_pending:
            self.announce(self.events[REQUESTED_AT], overdue=True)

    def heal(self, data: st.DataObject) -> None:
        """From now on nothing is lost: deadlines fire, the invoice announces pending payments again, doubts are resolved."""
        for _ in range(ROUNDS_MAX):
            while self.under_way:
                self.deliver(self.under_way.pop(0))
            turns = [turn for turn in self.gateway.turns() if turn != "in_doubt"]  # a person decides in the end
            if turns and self.gateway.state not in {"declined", "not_charged"}:
                self.turn(data.draw(st.sampled_from(turns)))
            elif self.gateway.state == "captured" and self.gateway.late and not self.is_pending:
                self.tell_saga(self.gateway.last)
            else:
                self.remind()
            if reminders(self.saga):
                self.fire(self.saga.deadline)
        assert not reminders(self.saga)


PENDING = {invoices.InvoiceStatus.PAYMENT_PENDING, invoices.InvoiceStatus.IN_DOUBT}
STEPS = (
    "deliver",
    "deliver",
    "deliver",
    "duplicate",
    "lose",
    "turn",
    "turn",
    "fire",
    "fire old",
    "remind",
    "pay otherwise",
    "void",
    "fail over",
)


def _step(world: ModelWorld, step: str, data: st.DataObject) -> None:
    match step:
        case "deliver" | "duplicate" | "lose":
            _transport(world, step, data)
        case "turn":
            if turns := world.gateway.turns():
                world.turn(data.draw(st.sampled_from(turns)))
        case "fire" | "fire old":
            world.fire(max(world.saga.deadline - (step == "fire old"), 0))
        case "remind":
            world.remind()
        case "fail over":
            world.fail_over()
        case "pay otherwise":
            world.command(invoices.Pay(OTHER, 1_000, "EUR", METHOD, payment_id_used=False))
            world.command(invoices.RecordPayment(OTHER, 1_000, "EUR", "R-2"))
        case _:
            world.command(invoices.Void("not needed"))


def _transport(world: ModelWorld, step: str, data: st.DataObject) -> None:
    if not world.under_way:
        return
    at = data.draw(st.integers(0, len(world.under_way) - 1))
    message = world.under_way[at] if step == "duplicate" else world.under_way.pop(at)
    if step != "lose":
        world.deliver(message)


def _ends(events: Sequence[invoices.Event]) -> list[type]:
    over = (invoices.Paid, invoices.PaymentFailed)
    return [type(event) for event in events if isinstance(event, over) and event.payment_id == PAYMENT]


@settings(max_examples=600)
@given(st.lists(st.sampled_from(STEPS), max_size=40), st.sampled_from((1_000, 1_000, 1_000, 999)), st.data())
def test_money_and_invoice_agree_in_the_end_whatever_is_lost(
    steps: list[str], amount_minor: int, data: st.DataObject
) -> None:
    world = ModelWorld(amount_minor)
    world.start()
    for step in steps:
        _step(world, step, data)
    world.heal(data)
    ended = world.saga.status
    assert len(_ends(world.events)) == 1  # exactly one outcome for the command's sender
    if not world.gateway.captured:
        assert (ended, _ends(world.events)) == (SagaStatus.FAILED, [invoices.PaymentFailed])
    elif world.gateway.state == "captured":
        assert (ended, _ends(world.events)) == (SagaStatus.COMPLETED, [invoices.Paid])
    else:
        back = {"refunded": SagaStatus.REFUNDED, "not_refunded": SagaStatus.NOT_REFUNDED}[world.gateway.state]
        assert (ended, _ends(world.events)) == (back, [invoices.PaymentFailed])
    seen(ended.value)
