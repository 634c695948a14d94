"""Laws of every history of a payment, with a gateway that answers truly or not at all."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from services.payment_gateway import afterwards, domain
from services.payment_gateway.commands import Command, Inquire, Refund, Resolve
from services.payment_gateway.domain import CASES, GatewayStep, Outcome, Payment, PaymentStatus, PaymentTransition
from services.payment_gateway.gateways import port
from tests.unit.payment_gateway.payments import (
    CANCELLED,
    CAPTURED,
    DECLINED,
    ID,
    NO_REFUND,
    NOT_SENT,
    POLICY,
    REFUNDED,
    REQUEST,
    UNCONFIRMED,
    UNKNOWN,
    on_known,
)


@dataclass
class ModelBank:
    """One payment at a gateway that charges at most once, and whose answers get lost."""

    captured: bool = False
    cancelled: bool = False
    refunded: bool = False

    def do(self, step: GatewayStep, *, declines: bool) -> domain.GatewayAnswer:
        match step:
            case GatewayStep.TOKENISE:
                return port.Tokenised("pm_1", "")
            case GatewayStep.PREPARE:
                return port.Prepared("pi_1", "")
            case GatewayStep.EXECUTE if not self.cancelled and not self.captured:
                self.captured = not declines
                return CAPTURED if self.captured else DECLINED
            case GatewayStep.CANCEL if not self.captured:
                self.cancelled = True
            case GatewayStep.REFUND if self.captured:
                self.refunded = True
            case _:
                pass
        if step in {GatewayStep.REFUND, GatewayStep.INQUIRE_REFUND}:
            return REFUNDED if self.refunded else NO_REFUND
        return CAPTURED if self.captured else CANCELLED if self.cancelled else UNCONFIRMED


MOVES = st.sampled_from(
    ["step", "step", "step", "lost", "unsent", "decline", "crash", "ask", "look", "give_back", "decide", "reopen"]
)


@dataclass
class History:
    """A payment, the bank, and what was published so far."""

    resolution: domain.Resolution
    bank: ModelBank
    row: Payment
    then: GatewayStep | None = None

    def go_on(self, move: str) -> PaymentTransition | None:
        """The transition that the move causes; None: nothing happens."""
        commands: dict[str, Command] = {
            "ask": Inquire(ID, "INV-1"),
            "look": Inquire(ID, "INV-1", look=True),
            "give_back": Refund(ID, "INV-1", ID, "void"),
            "decide": Resolve(ID, "INV-1", self.resolution, self.row.version, "ann", "R-1"),
            "reopen": Resolve(ID, "INV-1", "reopen", self.row.version, "bob"),
        }
        if move in commands:
            transition = on_known(self.row, commands[move])
            self.then = self.then if transition.payment is self.row else None  # the fence changed: the holder must stop
            return transition
        step, self.then = self.then or domain.next_step(self.row), None
        if move == "crash" or step is None:
            return None
        assert step is not GatewayStep.EXECUTE or self.row.gateway_id, "confirmed before its id was recorded"
        real = NOT_SENT if move == "unsent" else self.bank.do(step, declines=move == "decline")
        transition = afterwards.on_answer(self.row, step, UNKNOWN if move == "lost" else real, POLICY)
        self.then = transition.then
        return transition

    def check_truth(self, before: Payment) -> None:
        """What is recorded is true at the bank, unless a person decided it."""
        row = self.row
        cancelled = row.status is PaymentStatus.DECLINED or (row.status is PaymentStatus.NOT_CHARGED and row.gateway_id)
        if row.decided_by is None and cancelled:
            assert self.bank.cancelled, "settled without a confirmed cancel"
            assert not self.bank.captured
        if (
            row.decided_by is None
            and row.status is PaymentStatus.CAPTURED
            and before.status is not PaymentStatus.CAPTURED
        ):
            assert self.bank.captured
        if row.decided_by is None and row.status is PaymentStatus.REFUNDED:
            assert self.bank.refunded
        if row.status is PaymentStatus.REQUESTED:
            assert not self.bank.captured


@settings(max_examples=400)
@given(moves=st.lists(MOVES, max_size=60), resolution=st.sampled_from(["not_charged", "captured", "refunded"]))
def test_no_history_breaks_the_rules(moves: list[str], resolution: domain.Resolution) -> None:
    history = History(resolution, ModelBank(), on_known(None, REQUEST).payment)
    told: set[int] = set()
    for move in [*moves, *["step"] * 8]:
        before = history.row
        transition = history.go_on(move)
        if transition is None:
            continue
        row = history.row = transition.payment
        moved = (row.status, row.decided_by) != (before.status, before.decided_by)
        told_anew = transition.outcome is Outcome.NEEDS_DECISION and row.gateway_side != before.gateway_side
        assert row.version == before.version + (moved or told_anew)
        if transition.outcome is not None:
            assert row.version not in told, "two outcomes of one version"
            told.add(row.version)
        assert row.was_case >= (row.status in CASES)
        history.check_truth(before)


@settings(max_examples=100)
@given(moves=st.lists(st.sampled_from(["step", "lost", "unsent", "decline", "crash"]), max_size=40))
def test_once_the_gateway_answers_everything_settles(moves: list[str]) -> None:
    history = History("captured", ModelBank(), on_known(None, REQUEST).payment)
    for move in [*moves, *["step"] * 12]:
        transition = history.go_on(move)
        history.row = transition.payment if transition else history.row
    assert history.row.status in {PaymentStatus.CAPTURED, PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED}
    assert (history.row.status is PaymentStatus.CAPTURED) == history.bank.captured
