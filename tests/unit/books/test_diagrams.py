"""The state diagrams of services/README.md equal the state machines of the code, edge by edge.

The test finds what the code does by running it: it takes every state that can be reached, with every command, fact or answer.
"""

import contextlib
import itertools
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import pytest

from services.invoice import domain as invoice
from services.payment_gateway import afterwards, commands
from services.payment_gateway import domain as payment
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import PaymentRefundStatus
from services.saga import domain as saga
from shared.contracts.catalogue import MESSAGES, wire_name_without_version
from shared.records import replace
from tests.unit.books.documents import BEGINNING, SERVICES, Edge, mermaid_blocks, name_of, state_diagram

# -- every input -------------------------------------------------------------------------------------------------------------------------

ID, OTHER = UUID(int=1), UUID(int=2)
BY_NAME: dict[str, tuple[Any, ...]] = {
    "about": (None,),
    "advice": (None,),
    "amount_minor": (100, 99),
    "currency": ("EUR", "USD"),
    "details": (port.NO_DETAILS,),
    "expected_version": (1, 2),
    "left_minor": (100, 0),
    "charge": (None,),  # it counts only where a payment was given back, see `ANSWERS_TO`
    "key_spent": (False,),
    "key_taken": (False, True),
    "number": (1,),
    "refunded_minor": (0, 1),
    "retry_after_s": (None,),
    "standing": (None,),  # what is found there under our ids is told like a refund that was made
    "version": (1, 9),
}
BY_TYPE: dict[Any, tuple[Any, ...]] = {
    str: ("x",),
    bool: (False, True),
    UUID: (ID, OTHER),
    NoneType: (None,),
    # Of a dispute only counts whether it goes on; the rest is shown to people.
    port.Dispute: (port.Dispute("x"), port.Dispute(min(port.DISPUTE_OPEN))),
}


def everything(kinds: Any, **named: tuple[Any, ...]) -> list[Any]:
    """Each of these classes with each combination of values for its fields. A class that is added to the code is included."""
    return [made for kind in _each(kinds) for made in _made(kind, named)]


def _each(kinds: Any) -> tuple[Any, ...]:
    return tuple(one for kind in get_args(kinds) for one in _each(kind)) if get_args(kinds) else (kinds,)


def _made(kind: Any, named: dict[str, tuple[Any, ...]]) -> Iterator[Any]:
    fields = get_type_hints(kind)
    for values in itertools.product(*(_values(name, hint, named) for name, hint in fields.items())):
        yield kind(**dict(zip(fields, values, strict=True)))


def _values(name: str, hint: Any, named: dict[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    if name in named or name in BY_NAME:
        return named.get(name) or BY_NAME[name]
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in {Union, UnionType}:
        return tuple(value for one in get_args(hint) for value in _values(name, one, named))
    return BY_TYPE[hint] if hint in BY_TYPE else tuple(_made(hint, named))


# -- the invoice ---------------------------------------------------------------------------------------------------------------------------


def invoice_edges() -> set[Edge]:
    asked = everything(invoice.Command)
    edges: set[Edge] = set()
    seen, waiting = set[invoice.Invoice](), [invoice.Invoice("INV-1")]
    while waiting:
        state = waiting.pop()
        for command in asked:
            decided = invoice.decide(command, state)
            for event in decided if isinstance(decided, tuple) else ():
                after = replace(invoice.evolve(state, event), version=0, refunds=())  # refunds leave the status
                if after.status is not state.status:
                    edges.add((state.status, type(event).__name__, after.status))
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
    return edges


# -- the payment ---------------------------------------------------------------------------------------------------------------------------

POLICY = payment.Policy(ladder_s=(1.0,) * payment.EXECUTIONS_MAX, remind_s=60.0)
"""A ladder on which all confirms that may be sent are sent."""
KEY_NUMBERS_TOLD_APART = payment.EXECUTIONS_MAX + 1
"""Above this number a higher one makes no difference."""
CONFIRMED_AGAIN = {payment.PaymentStatus.PREPARED, payment.PaymentStatus.IN_DOUBT}
"""The statuses in which the number decides what follows. In the others only the end of the ladder does."""
LAST_RUNG = len(POLICY.ladder_s) - 1
NO_AMOUNT = {PaymentRefundStatus.WAITING, PaymentRefundStatus.KEPT}
"""The amount of such a refund counts nowhere: it is measured again before it is sent."""

PAYMENT_COMMANDS = [
    *everything(
        commands.Request | commands.Inquire | commands.Resolve,
        payment_id=(ID,),
        amount_minor=(100,),
        currency=("EUR",),
        card_jwe=(None,),
    ),
    commands.Refund(ID, "x", ID, "x"),
    commands.Refund(ID, "x", OTHER, "x", amount_minor=40, currency="EUR"),
]
"""Of refunds the one that the saga asks for, and one of a part: of more there is nothing more to see."""
NO_OTHER_AMOUNT: dict[str, tuple[Any, ...]] = {"amount_minor": (None,)}
"""A refund that the gateway made is of the amount that was sent."""
CONTESTED = port.Captured("x", 100, "EUR", "x", "x", refunded_minor=1, disputed=True)
ABOUT_MONEY = [*everything(port.Captured), *everything(port.Refunded, **NO_OTHER_AMOUNT)]
"""Answers that count even if they come late. That no other does is tested in tests/unit/payment_gateway."""
ANSWERS_TO: dict[payment.GatewayStep, list[Any]] = {
    payment.GatewayStep.TOKENISE: everything(port.TokeniseAnswer),
    payment.GatewayStep.FIND: everything(port.FindAnswer),
    payment.GatewayStep.PREPARE: everything(port.PrepareAnswer),
    payment.GatewayStep.EXECUTE: everything(port.ExecuteAnswer),
    payment.GatewayStep.INQUIRE: everything(port.ChargeAnswer),
    payment.GatewayStep.CANCEL: everything(port.ChargeAnswer),
    payment.GatewayStep.REFUND: everything(port.RefundAnswer, **NO_OTHER_AMOUNT),
    payment.GatewayStep.INQUIRE_REFUND: [
        *everything(port.RefundAnswer, **NO_OTHER_AMOUNT),
        port.Refunded("x", "x", charge=CONTESTED),
        port.NoRefund("x", 0, charge=CONTESTED),
    ],
}

At = tuple[payment.Payment | None, payment.GatewayStep | None]
"""A payment, and the step that its holder takes next without reading the row again."""
Happened = tuple[str, payment.PaymentTransition]


def effect_of(command: commands.Command, state: payment.Payment | None) -> Iterator[Happened]:
    # these become dead letters: the payment does not change
    with contextlib.suppress(commands.PaymentIdReusedError, commands.RefundIdReusedError):
        effect = commands.on_command(state, command)
        if isinstance(effect, payment.PaymentTransition):
            yield type(command).__name__, effect


def payment_happenings(state: payment.Payment | None) -> Iterator[Happened]:
    """Everything that can happen to a payment that is read from its row, by name."""
    for command in PAYMENT_COMMANDS:
        yield from effect_of(command, state)
    if state is None:
        return
    for step in first_steps(state):
        yield from answered(state, step)
    for answer in ABOUT_MONEY:
        if (found := payment.on_late_answer(state, answer, POLICY, asked=state)) is not None:
            yield type(answer).__name__, found


def first_steps(state: payment.Payment) -> set[payment.GatewayStep | None]:
    """The step of a young payment, and that of an old one."""
    return {payment.first_step(state, age_s, POLICY) for age_s in (0.0, POLICY.find_after_s)}


def answered(state: payment.Payment, step: payment.GatewayStep | None) -> Iterator[Happened]:
    """Every answer to a step; without one the payment is due."""
    if step is None:
        yield "due", payment.on_due(state)
        return
    for answer in ANSWERS_TO[step]:
        yield type(answer).__name__, afterwards.on_answer(state, step, answer, POLICY)


def _same_for_all_that_follows(state: payment.Payment) -> payment.Payment:
    """The payment without values on which nothing depends, so that there are few states."""
    counts = state.status in CONFIRMED_AGAIN
    if state.refunds:  # the amount that was asked for was compared before
        state = replace(state, amount_minor=100, currency="EUR")
    return replace(
        state,
        version=1,
        reason=None,
        was_case=False,
        receipt_number=None,
        refund_id=None,
        method_token=state.method_token or state.gateway_id,
        params_hash=None,  # only a repeated request is compared with it, which changes nothing
        pending=state.pending and replace(state.pending, reason=""),
        key_number=min(state.key_number, KEY_NUMBERS_TOLD_APART) if counts else 1,
        rung=min(max(state.rung, 0 if counts else LAST_RUNG), LAST_RUNG + 1),
        gateway_side=state.gateway_side and payment.GatewaySide(_alike(state.gateway_side.answer)),
        refunds=tuple(
            replace(
                refund,
                # one that a person decided goes on like that of the whole payment
                refund_id=OTHER if refund.refund_id == OTHER else ID,
                reason="",
                by_hand_minor=0,  # it was told with this refund
                amount_minor=None if refund.status in NO_AMOUNT else refund.amount_minor,
                version=int(refund.version == state.version),
                key_number=1,
                gateway_id=None,
                decided_by=None,
                asked_by=None,
            )
            for refund in state.refunds
            # what others gave back, and was told, has ended
            if refund.reason != payment.WENT_BACK or refund.decided_by
        ),
    )


def _alike(answer: str) -> str:
    """One of the answers that mean the same if they are the last that was shown."""
    never_captured = sorted(afterwards.NEVER_CAPTURED)
    return never_captured[0] if answer in never_captured else answer


def payment_edges() -> set[Edge]:
    edges: set[Edge] = set()
    seen, waiting = set[At](), list[At]([(None, None)])
    read = set[payment.Payment | None]()
    while waiting:
        state, then = waiting.pop()
        before = BEGINNING if state is None else state.status.value
        happenings: list[Happened] = []
        if state not in read:
            read.add(state)
            happenings += payment_happenings(state)
        if state is not None and then is not None and then not in first_steps(state):
            happenings += answered(state, then)
        for what, transition in happenings:
            if transition.payment is state and transition.then is None:
                continue  # refused, or nothing new: the state was read already
            after = transition.payment.status.value
            if after != before:
                edges.add((before, what, after))
            at = (_same_for_all_that_follows(transition.payment), transition.then)
            if at not in seen:
                seen.add(at)
                waiting.append(at)
    return edges


# -- the saga ------------------------------------------------------------------------------------------------------------------------------

SCHEDULE = saga.ReminderSchedule((1.0, 2.0))


def saga_edges() -> set[Edge]:
    facts = everything(saga.Fact, amount_minor=(100,), currency=("EUR",))
    edges: set[Edge] = set()
    seen, waiting = set[saga.Saga](), [saga.Saga(ID, "INV-1")]
    while waiting:
        state = waiting.pop()
        for fact in facts:
            after = saga.transition(state, fact, SCHEDULE).saga
            if after.status is not state.status:
                edges.add((state.status, type(fact).__name__, after.status))
            # refunds that were asked for do not change the status
            after = replace(
                after, version=0, deadline=min(after.deadline, 1), repeats=min(after.repeats, 1), refunds=()
            )
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return edges


# -- the diagrams --------------------------------------------------------------------------------------------------------------------------

MACHINES = {
    "invoice": (invoice.InvoiceStatus, invoice_edges),
    "payment": (payment.PaymentStatus, payment_edges),
    "saga": (saga.SagaStatus, saga_edges),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_state_diagram_equals_the_code(machine: Literal["invoice", "payment", "saga"]) -> None:
    status, edges_of = MACHINES[machine]
    drawn, done = state_diagram(SERVICES, machine), edges_of()
    assert drawn.states == {one.value for one in status}, (
        f"{name_of(SERVICES)}: the diagram of the {machine} must show each state of services/*/domain.py, and no other"
    )
    missing, wrong = sorted(map(_shown, done - drawn.edges)), sorted(map(_shown, drawn.edges - done))
    assert not missing, f"{name_of(SERVICES)}: the code does this, add it to the diagram of the {machine}: {missing}"
    assert not wrong, f"{name_of(SERVICES)}: no code does this, take it out of the diagram of the {machine}: {wrong}"


def _shown(edge: Edge) -> str:
    start, what, end = edge
    return f"{start} --> {end} : {what}"


def test_every_step_at_the_gateway_was_tried() -> None:
    assert set(ANSWERS_TO) == set(payment.GatewayStep), (
        f"list in ANSWERS_TO of {__file__} which answers each step can get"
    )


def test_messages_in_sequence_diagrams_are_in_the_catalogue() -> None:
    known = {wire_name_without_version(message.wire_name).rpartition(".")[2] for message in MESSAGES}
    diagrams = mermaid_blocks(SERVICES, "sequenceDiagram")
    assert diagrams, f"{name_of(SERVICES)} has lost its sequence diagrams"
    for line in (line for block in diagrams for line in block.splitlines() if "->>" in line):
        said = line.partition(": ")[2].split()[0]
        if said[0].isupper():
            assert said in known, (
                f"{name_of(SERVICES)}: a sequence diagram shows {said}, which is no message of the catalogue"
            )
