"""What upstream systems do, good and bad, as small scenes: each plays one invoice and returns its result."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import aio_pika

from deploy.demo.upstream import AnswerReceived, Upstream
from deploy.sandbox.faults import BEHAVIOURS, REFUNDS, Ending
from shared.amqp.broker_link import user_in
from shared.card_data.encryption import CardDetails, encrypt_card
from shared.contracts.base import Contract
from shared.contracts.invoice import (
    EncryptedCardMethod,
    IssueInvoice,
    PayInvoice,
    PaymentMethod,
    RecordPayment,
    RefundInvoice,
    TokenMethod,
    VoidInvoice,
)
from shared.ids import new_id
from shared.messaging.codec import STRUCTURED

AMOUNT_MINOR = 12_500
CURRENCY = "EUR"
PART_MINOR = 2_500
OUTCOME_WITHIN_S = 75.0
"""Longer than the whole ladder of the demonstration's settings, and than the second deadline of its sagas after 45 s. The first question
of a saga may go to an instance that is stopped."""

VISA = "4242424242424242"
DECLINED_CARD = "4000000000000002"

REFUND_ENDS = {"refund_fails": "waits for a person", "refund_no_balance": "waits for a person"}
"""How a refund ends, by the sandbox's behaviour. Others are made in the end. Tokens whose fault shows after the payment has ended are not
played: they need somebody who looks again (`make faults ARGS='--only afterwards/*'`)."""


class UnexpectedError(Exception):
    """The scene did not end as it must."""


@dataclass(frozen=True, slots=True)
class Played:
    """The result of a scene: in words for the table, and the payments that it began."""

    result: str
    payments: tuple[UUID, ...] = ()
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scene needs: the sender, and the key for encrypted cards."""

    upstream: Upstream
    public_key: dict[str, object]

    async def issue(self, invoice_id: str) -> None:
        command = IssueInvoice(invoice_id=invoice_id, customer_id="C-100", amount_minor=AMOUNT_MINOR, currency=CURRENCY)
        expect(await self.upstream.ask(command), "accepted")

    def pay(self, invoice_id: str, method: PaymentMethod | str, payment_id: UUID | None = None) -> PayInvoice:
        return PayInvoice(
            invoice_id=invoice_id,
            payment_id=payment_id or new_id(),
            amount_minor=AMOUNT_MINOR,
            currency=CURRENCY,
            method=TokenMethod(token=method) if isinstance(method, str) else method,
        )

    async def pay_and_wait(self, command: PayInvoice) -> str:
        expect(await self.upstream.ask(command), "accepted")
        return await self.outcome(command)

    async def outcome(self, command: PayInvoice) -> str:
        return await self.upstream.outcome(command.payment_id, within_s=OUTCOME_WITHIN_S) or "waits for a person"

    def refund(self, invoice_id: str, amount_minor: int | None) -> RefundInvoice:
        return RefundInvoice(
            invoice_id=invoice_id, refund_id=new_id(), amount_minor=amount_minor, currency=CURRENCY, reason="returned"
        )

    async def refund_outcome(self, asked: RefundInvoice) -> str:
        return await self.upstream.refund_outcome(asked.refund_id, within_s=OUTCOME_WITHIN_S) or "no outcome"

    def card(self, number: str, payment_id: UUID) -> EncryptedCardMethod:
        card = CardDetails(number, 12, 2030)
        return EncryptedCardMethod(jwe=encrypt_card(card, payment_id=payment_id, public_key_jwk=self.public_key))


Play = Callable[[Stage, str], Awaitable[Played]]


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of scene. `share`: its part of all invoices; it is played at least once. `results`: every result that is right."""

    name: str
    play: Play
    results: tuple[str, ...]
    share: float = 0.0


def expect(asked: tuple[UUID, AnswerReceived], answer: str, reason: str | None = None) -> None:
    """Raises UnexpectedError if the answer is another one."""
    got = asked[1]
    if (got.answer, got.reason) != (answer, reason):
        raise UnexpectedError(f"expected {answer} {reason or ''}, got {got.answer} {got.reason or ''}")


# -- payments --------------------------------------------------------------------------------------------------------------------------


def paying(token: str) -> Play:
    async def play(stage: Stage, invoice_id: str) -> Played:
        await stage.issue(invoice_id)
        command = stage.pay(invoice_id, token)
        return Played(await stage.pay_and_wait(command), (command.payment_id,), timed=token == "pm_card_visa")  # noqa: S105 - a test token

    return play


def paying_by_card(number: str) -> Play:
    async def play(stage: Stage, invoice_id: str) -> Played:
        await stage.issue(invoice_id)
        payment_id = new_id()
        command = stage.pay(invoice_id, stage.card(number, payment_id), payment_id)
        return Played(await stage.pay_and_wait(command), (payment_id,))

    return play


async def declined_then_paid(stage: Stage, invoice_id: str) -> Played:
    await stage.issue(invoice_id)
    first = stage.pay(invoice_id, "pm_card_chargeDeclined")
    if await stage.pay_and_wait(first) != "declined":
        raise UnexpectedError("the first card must be declined")
    second = stage.pay(invoice_id, "pm_card_mastercard")
    return Played(await stage.pay_and_wait(second), (first.payment_id, second.payment_id))


async def card_of_another_payment(stage: Stage, invoice_id: str) -> Played:
    await stage.issue(invoice_id)
    command = stage.pay(invoice_id, stage.card(VISA, new_id()))
    return Played(await stage.pay_and_wait(command), (command.payment_id,))


async def sent_three_times(stage: Stage, invoice_id: str) -> Played:
    await stage.issue(invoice_id)
    command, id_ = stage.pay(invoice_id, "pm_card_visa"), new_id()
    for _ in range(3):
        expect(await stage.upstream.ask(command, command_id=id_), "accepted")
    return Played(await stage.outcome(command), (command.payment_id,))


async def same_id_other_data(stage: Stage, invoice_id: str) -> Played:
    await stage.issue(invoice_id)
    command, id_ = stage.pay(invoice_id, "pm_card_visa"), new_id()
    first = await stage.upstream.ask(command, command_id=id_)
    expect(first, "accepted")
    await stage.upstream.send(stage.pay(invoice_id, "pm_card_mastercard", command.payment_id), command_id=id_)
    async with asyncio.timeout(OUTCOME_WITHIN_S):
        # The first answer may come twice: a service that died before it knew of the broker's confirm publishes it again.
        while not (others := [one for one in stage.upstream.answers[id_] if one != first[1]]):  # noqa: ASYNC110 - an outside system polls
            await asyncio.sleep(0.02)
    expect((id_, others[0]), "rejected", "command_id_reused")
    return Played(await stage.outcome(command), (command.payment_id,))


# -- refunds ---------------------------------------------------------------------------------------------------------------------------


def refunding(token: str, *parts: int | None) -> Play:
    """Pay, then ask for these refunds one after the other. None: for all that is left."""

    async def play(stage: Stage, invoice_id: str) -> Played:
        await stage.issue(invoice_id)
        command = stage.pay(invoice_id, token)
        if (result := await stage.pay_and_wait(command)) != "paid":
            return Played(result, (command.payment_id,))
        results = []
        for amount_minor in parts:
            asked = stage.refund(invoice_id, amount_minor)
            expect(await stage.upstream.ask(asked), "accepted")
            results.append(await stage.refund_outcome(asked))
        return Played(", ".join(dict.fromkeys(results)), (command.payment_id,))

    return play


async def _paid(stage: Stage, invoice_id: str, token: str) -> PayInvoice:
    await stage.issue(invoice_id)
    command = stage.pay(invoice_id, token)
    if (result := await stage.pay_and_wait(command)) != "paid":
        raise UnexpectedError(f"it must be paid before it is refunded, and is {result}")
    return command


async def refund_asked_for_twice(stage: Stage, invoice_id: str) -> Played:
    """Under the same command id, then under another one: it is one refund."""
    command = await _paid(stage, invoice_id, "pm_card_visa")
    asked, id_ = stage.refund(invoice_id, PART_MINOR), new_id()
    for command_id in (id_, id_, new_id()):
        expect(await stage.upstream.ask(asked, command_id=command_id), "accepted")
    other = asked.model_copy(update={"amount_minor": PART_MINOR + 1})
    expect(await stage.upstream.ask(other), "rejected", "refund_id_used")
    return Played(await stage.refund_outcome(asked), (command.payment_id,))


async def refund_above_what_is_left(stage: Stage, invoice_id: str) -> Played:
    command = await _paid(stage, invoice_id, "pm_card_visa")
    first = stage.refund(invoice_id, PART_MINOR)
    expect(await stage.upstream.ask(first), "accepted")
    too_much = stage.refund(invoice_id, AMOUNT_MINOR - PART_MINOR + 1)
    expect(await stage.upstream.ask(too_much), "rejected", "refund_too_large")
    await stage.refund_outcome(first)
    return Played("rejected: refund_too_large", (command.payment_id,))


async def refunded_before_paid(stage: Stage, invoice_id: str) -> Played:
    await stage.issue(invoice_id)
    expect(await stage.upstream.ask(stage.refund(invoice_id, PART_MINOR)), "rejected", "not_paid")
    return Played("rejected: not_paid")


# -- rules -----------------------------------------------------------------------------------------------------------------------------


async def paid_before_issued(stage: Stage, invoice_id: str) -> Played:
    command = stage.pay(invoice_id, "pm_card_visa")
    expect(await stage.upstream.ask(command), "rejected", "unknown_invoice")
    return Played("rejected: unknown_invoice")


async def payment_id_used_twice(stage: Stage, invoice_id: str) -> Played:
    other = f"{invoice_id}-b"
    await stage.issue(invoice_id)
    await stage.issue(other)
    first = stage.pay(invoice_id, "pm_card_visa")
    await stage.pay_and_wait(first)
    expect(await stage.upstream.ask(stage.pay(other, "pm_card_visa", first.payment_id)), "rejected", "payment_id_used")
    return Played("rejected: payment_id_used", (first.payment_id,))


async def void_against_pay(stage: Stage, invoice_id: str) -> Played:
    await stage.issue(invoice_id)
    command = stage.pay(invoice_id, "pm_remit_slow")
    paid, void = await asyncio.gather(
        stage.upstream.ask(command), stage.upstream.ask(VoidInvoice(invoice_id=invoice_id, reason="ordered by mistake"))
    )
    if paid[1].answer == "accepted":
        if void[1].reason not in {"payment_under_way", "already_paid"}:
            raise UnexpectedError(f"voided while a payment was under way: {void[1]}")
        return Played(await stage.outcome(command), (command.payment_id,))
    expect(paid, "rejected", "invoice_void")
    return Played("rejected: invoice_void")


async def wrong_amount(stage: Stage, invoice_id: str) -> Played:
    await stage.issue(invoice_id)
    command = stage.pay(invoice_id, "pm_card_visa").model_copy(update={"amount_minor": AMOUNT_MINOR - 1})
    expect(await stage.upstream.ask(command), "rejected", "amount_differs")
    return Played("rejected: amount_differs")


# -- bad input -------------------------------------------------------------------------------------------------------------------------


def invalid(**data: object) -> Play:
    async def play(stage: Stage, invoice_id: str) -> Played:
        good = IssueInvoice(invoice_id=invoice_id, customer_id="C-100", amount_minor=AMOUNT_MINOR, currency=CURRENCY)
        id_ = await stage.upstream.send(good, data=good.model_dump(mode="json") | data)
        expect((id_, await stage.upstream.answer(id_)), "rejected", "invalid_data")
        return Played("rejected: invalid_data")

    return play


async def clear_card(stage: Stage, invoice_id: str) -> Played:
    good = stage.pay(invoice_id, "pm_card_visa")
    id_ = await stage.upstream.send(
        good, data=good.model_dump(mode="json") | {"method": {"kind": "card", "number": VISA}}
    )
    expect((id_, await stage.upstream.answer(id_)), "rejected", "clear_card_number")
    return Played("rejected: clear_card_number")


async def forged_settlement(stage: Stage, invoice_id: str) -> Played:
    forged = RecordPayment(
        invoice_id=invoice_id,
        payment_id=new_id(),
        amount_minor=AMOUNT_MINOR,
        currency=CURRENCY,
        receipt_number="forged",
    )
    expect(await stage.upstream.ask(forged), "rejected", "not_public")
    return Played("rejected: not_public")


async def from_the_future(stage: Stage, invoice_id: str) -> Played:
    command = stage.pay(invoice_id, "pm_card_visa")
    await stage.upstream.send(command, type="remit.invoice.PayInvoice.v9")
    return Played("dead letter: unknown_version")


async def not_json(stage: Stage, _: str) -> Played:
    id_ = new_id()
    await stage.upstream.send_raw(b"<pay/>", type_="text", command_id=id_)
    expect((id_, await stage.upstream.answer(id_)), "rejected", "not_json")
    return Played("rejected: not_json")


# -- all scenes ------------------------------------------------------------------------------------------------------------------------

_ENDINGS = {
    Ending.CAPTURED: "paid",
    Ending.DECLINED: "declined",
    Ending.NOT_CHARGED: "not_charged",
    Ending.PERSON: "waits for a person",
}

_FAULTS = tuple(
    Scene(token, paying(token), tuple(_ENDINGS[end] for end in behaviour.ends))
    for token, behaviour in BEHAVIOURS.items()
    if token.startswith("pm_remit_") and behaviour.afterwards is None
)
_REFUND_FAULTS = tuple(
    Scene(f"pm_remit_{name}", refunding(f"pm_remit_{name}", PART_MINOR), (REFUND_ENDS.get(name, "refunded"),))
    for name in REFUNDS
    if name != "refund_pending_forever"  # nothing ever becomes of it
)

SCENES: tuple[Scene, ...] = (
    Scene("paid by token", paying("pm_card_visa"), ("paid",), share=0.45),
    Scene("paid by encrypted card", paying_by_card(VISA), ("paid",), share=0.06),
    Scene("encrypted card declined", paying_by_card(DECLINED_CARD), ("declined",), share=0.02),
    Scene("encrypted for another payment", card_of_another_payment, ("not_charged",)),
    Scene("declined", paying("pm_card_chargeDeclined"), ("declined",), share=0.05),
    Scene("declined: no funds", paying("pm_card_visa_chargeDeclinedInsufficientFunds"), ("declined",), share=0.02),
    Scene("declined, then another card", declined_then_paid, ("paid",), share=0.03),
    Scene("command sent three times", sent_three_times, ("paid",), share=0.05),
    Scene("known id, other data", same_id_other_data, ("paid",), share=0.01),
    Scene("paid before issued", paid_before_issued, ("rejected: unknown_invoice",), share=0.02),
    Scene("payment id used twice", payment_id_used_twice, ("rejected: payment_id_used",), share=0.01),
    Scene("void against pay", void_against_pay, ("paid", "not_charged", "rejected: invoice_void"), share=0.02),
    Scene("wrong amount", wrong_amount, ("rejected: amount_differs",), share=0.01),
    Scene("negative amount", invalid(amount_minor=-1), ("rejected: invalid_data",)),
    Scene("unknown currency", invalid(currency="XXX"), ("rejected: invalid_data",)),
    Scene("field missing", invalid(customer_id=None), ("rejected: invalid_data",)),
    Scene("card number in the clear", clear_card, ("rejected: clear_card_number",)),
    Scene("forged settlement", forged_settlement, ("rejected: not_public",)),
    Scene("version of the future", from_the_future, ("dead letter: unknown_version",)),
    Scene("not JSON", not_json, ("rejected: not_json",)),
    Scene("refunded in two parts", refunding("pm_card_visa", PART_MINOR, None), ("refunded",), share=0.02),
    Scene("refund asked for twice", refund_asked_for_twice, ("refunded",)),
    Scene("refund above what is left", refund_above_what_is_left, ("rejected: refund_too_large",)),
    Scene("refunded before paid", refunded_before_paid, ("rejected: not_paid",)),
    *_FAULTS,
    *_REFUND_FAULTS,
)


def programme(invoices: int) -> Iterator[Scene]:
    """As many scenes as invoices: each at least once, the rest by their shares, mixed."""
    counts = {scene.name: max(1, round(scene.share * invoices)) for scene in SCENES}
    counts[SCENES[0].name] += max(0, invoices - sum(counts.values()))
    while any(counts.values()):
        for scene in SCENES:
            if counts[scene.name]:
                counts[scene.name] -= 1
                yield scene


async def reject_one(
    rabbitmq_url: str, command: Contract, body: bytes, message_id: UUID, *, sender_url: str | None = None
) -> None:
    """What an old build of a consumer did to a good command: refuse it, so that the broker itself dead-letters it.

    The command is from the user of `sender_url`, whose invoices are its own; else from that of `rabbitmq_url`, which reads the queue.
    """
    sender_url = sender_url or rabbitmq_url
    async with await aio_pika.connect(sender_url, timeout=10) as sender:
        exchange = await (await sender.channel()).get_exchange(command.exchange, ensure=False)
        message = aio_pika.Message(
            body,
            content_type=STRUCTURED,
            message_id=str(message_id),
            user_id=user_in(sender_url),
            delivery_mode=2,
        )
        await exchange.publish(message, routing_key=command.wire_name, timeout=10)
    async with await aio_pika.connect(rabbitmq_url, timeout=10) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue("invoice.commands", ensure=False)
        delivery = await queue.get(timeout=10)
        await delivery.reject(requeue=False)
