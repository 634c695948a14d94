"""The client for senders: one suite, against all of Remit and against the fake that senders test with."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypedDict
from uuid import uuid4

import aio_pika
import pytest
from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from remit_kit import (
    AccessRefused,
    BlockingRemit,
    Command,
    EncryptedCard,
    Event,
    NoAnswer,
    NoOutcome,
    NotConnected,
    Paid,
    PaymentFailed,
    PaymentOutcome,
    Refunded,
    RefundOutcome,
    Rejected,
    Remit,
    Token,
    broker,
    issue_invoice,
    pay_invoice,
    refund_invoice,
    void_invoice,
)
from remit_kit.books import ADVICE
from remit_kit.broker import COMMANDS
from remit_kit.cards import Card, encrypt_card
from remit_kit.fake import ENDINGS, IN_DOUBT, FakeRemit

from deploy.local.stack import LISTENER, OPERATOR, UPSTREAM, Stack
from deploy.local.system import System
from services.invoice.domain import RejectionReason
from tests.faults.frames import Amqp, FrameEvent
from tests.faults.proxy import Network
from tests.support.waiting import until
from tests.system.conftest import a_system

OpenRemit = Callable[..., Remit]
VISA = Token("pm_card_visa")


@pytest.fixture(scope="module")
def whole_system(stack: Stack) -> Iterator[System]:
    yield from a_system(stack)


class Price(TypedDict):
    amount_minor: int
    currency: str


EUR: Price = {"amount_minor": 12500, "currency": "EUR"}


def new_invoice() -> str:
    return f"kit-{uuid4()}"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.system)])
def system_or_none(request: pytest.FixtureRequest) -> System | None:
    """The real services, or None for the fake."""
    return request.getfixturevalue("system") if request.param == "real" else None


@pytest.fixture
def open_remit(system_or_none: System | None) -> OpenRemit:
    if system_or_none is None:
        return FakeRemit
    url = system_or_none.stack.rabbitmq_url_of(UPSTREAM)
    return lambda **options: Remit(url, **options)


@pytest.fixture
async def remit(open_remit: OpenRemit) -> AsyncIterator[Remit]:
    async with open_remit() as opened:
        yield opened


@pytest.fixture
def card_keys(system_or_none: System | None, remit: Remit) -> Any:
    if system_or_none is None:
        assert isinstance(remit, FakeRemit)
        return remit.card_keys
    return system_or_none.public_keys


async def issued(remit: Remit) -> str:
    invoice = new_invoice()
    await remit.issue(invoice, customer_id="C-1", **EUR)
    return invoice


async def paid(remit: Remit) -> tuple[str, Paid]:
    invoice = await issued(remit)
    outcome = await remit.pay(invoice, **EUR, method=VISA)
    assert isinstance(outcome, Paid)
    return invoice, outcome


# -- the same on both ----------------------------------------------------------------------------------------------------------------------


async def test_an_invoice_is_paid_and_given_back(remit: Remit) -> None:
    invoice, outcome = await paid(remit)
    assert outcome == Paid(invoice, outcome.payment_id, 12500, "EUR", outcome.receipt_number)
    part = await remit.refund(invoice, amount_minor=2500, currency="EUR", reason="damaged")
    rest = await remit.refund(invoice, currency="EUR", reason="goodwill")
    assert isinstance(part, Refunded)
    assert isinstance(rest, Refunded)
    assert (part.amount_minor, part.refunded_minor) == (2500, 2500)
    assert (rest.amount_minor, rest.refunded_minor) == (10000, 12500)
    assert rest.version > part.version


DECLINED = {token: reason for token, reason in ENDINGS.items() if token.startswith("pm_card") and reason != "paid"}


@pytest.mark.parametrize(
    ("token", "outcome", "reason"),
    [
        *((token, "declined", reason) for token, reason in DECLINED.items()),
        ("pm_nobody_knows", "not_charged", "resource_missing"),
    ],
)
async def test_a_payment_fails_for_a_reason(remit: Remit, token: str, outcome: str, reason: str) -> None:
    invoice = await issued(remit)
    failed = await remit.pay(invoice, **EUR, method=Token(token))
    assert isinstance(failed, PaymentFailed)
    assert (failed.invoice_id, failed.outcome, failed.reason) == (invoice, outcome, reason)
    assert failed.advice == ADVICE.get(reason)
    assert failed.reference_code
    assert isinstance(await remit.pay(invoice, **EUR, method=VISA), Paid), "the invoice is open again"


async def test_a_card_is_encrypted_for_one_payment(remit: Remit, card_keys: Any) -> None:
    invoice, other, payment = await issued(remit), await issued(remit), uuid4()
    card = Card("4000000000000002", 12, 2034, name="Ann Bell", postal_code="10115")
    method = EncryptedCard(encrypt_card(card, payment_id=payment, keys=card_keys))
    declined = await remit.pay(invoice, **EUR, method=method, payment_id=payment)
    assert isinstance(declined, PaymentFailed)
    assert (declined.outcome, declined.reason) == ("declined", "generic_decline")
    pasted = await remit.pay(other, **EUR, method=method)
    assert isinstance(pasted, PaymentFailed)
    assert (pasted.outcome, pasted.reason) == ("not_charged", "card_not_for_this_payment")
    payment = uuid4()
    method = EncryptedCard(encrypt_card(Card("4111111111111111", 12, 2034), payment_id=payment, keys=card_keys))
    unknown = await remit.pay(other, **EUR, method=method, payment_id=payment)
    assert isinstance(unknown, PaymentFailed)
    assert (unknown.outcome, unknown.reason) == ("not_charged", "test_mode_live_card")
    payment = uuid4()
    method = EncryptedCard(encrypt_card(Card("4242424242424242", 12, 2034), payment_id=payment, keys=card_keys))
    assert isinstance(await remit.pay(invoice, **EUR, method=method, payment_id=payment), Paid)


async def _already_issued(remit: Remit) -> Command:
    return issue_invoice(await issued(remit), customer_id="C-1", **EUR)


async def _of_nothing(_: Remit) -> Command:
    return issue_invoice(new_invoice(), customer_id="C-1", amount_minor=0, currency="EUR")


async def _in_lek_of_nobody(_: Remit) -> Command:
    return issue_invoice(new_invoice(), customer_id="C-1", amount_minor=1, currency="eur")


async def _in_lev(_: Remit) -> Command:
    return issue_invoice(new_invoice(), customer_id="C-1", amount_minor=100, currency="BGN")


async def _in_fils(_: Remit) -> Command:
    return issue_invoice(new_invoice(), customer_id="C-1", amount_minor=1001, currency="KWD")


async def _in_no_currency(_: Remit) -> Command:
    return issue_invoice(new_invoice(), customer_id="C-1", amount_minor=100, currency="ABC")


async def _unknown(_: Remit) -> Command:
    return pay_invoice(new_invoice(), **EUR, method=VISA)


async def _too_little(remit: Remit) -> Command:
    return pay_invoice(await issued(remit), amount_minor=12499, currency="EUR", method=VISA)


async def _in_dollars(remit: Remit) -> Command:
    return pay_invoice(await issued(remit), amount_minor=12500, currency="USD", method=VISA)


async def _paid_twice(remit: Remit) -> Command:
    return pay_invoice((await paid(remit))[0], **EUR, method=VISA)


async def _with_a_used_payment_id(remit: Remit) -> Command:
    _, outcome = await paid(remit)
    return pay_invoice(await issued(remit), **EUR, method=VISA, payment_id=outcome.payment_id)


async def _void_twice(remit: Remit) -> Command:
    invoice = await issued(remit)
    await remit.void(invoice, reason="a mistake")
    return void_invoice(invoice, reason="a mistake")


async def _not_paid(remit: Remit) -> Command:
    return refund_invoice(await issued(remit), currency="EUR", reason="damaged")


async def _more_than_was_paid(remit: Remit) -> Command:
    return refund_invoice((await paid(remit))[0], amount_minor=12501, currency="EUR", reason="damaged")


async def _given_back_already(remit: Remit) -> Command:
    invoice, _ = await paid(remit)
    await remit.refund(invoice, currency="EUR", reason="damaged")
    return refund_invoice(invoice, currency="EUR", reason="damaged")


async def _with_a_used_refund_id(remit: Remit) -> Command:
    invoice, _ = await paid(remit)
    refund_id = uuid4()
    await remit.refund(invoice, currency="EUR", amount_minor=100, reason="damaged", refund_id=refund_id)
    return refund_invoice(invoice, currency="EUR", amount_minor=200, reason="damaged", refund_id=refund_id)


async def _with_a_used_command_id(remit: Remit) -> Command:
    id_ = uuid4()
    await remit.issue(new_invoice(), customer_id="C-1", **EUR, command_id=id_)
    return issue_invoice(new_invoice(), customer_id="C-1", **EUR, command_id=id_)


REJECTED = {
    "already_issued": _already_issued,
    "nothing_to_pay": _of_nothing,
    "currency_not_chargeable": _in_lev,
    "amount_not_chargeable": _in_fils,
    "invalid_data": _in_lek_of_nobody,
    "unknown_invoice": _unknown,
    "amount_differs": _too_little,
    "currency_differs": _in_dollars,
    "already_paid": _paid_twice,
    "payment_id_used": _with_a_used_payment_id,
    "invoice_void": _void_twice,
    "not_paid": _not_paid,
    "refund_too_large": _more_than_was_paid,
    "nothing_to_refund": _given_back_already,
    "refund_id_used": _with_a_used_refund_id,
    "command_id_reused": _with_a_used_command_id,
}


def test_every_decision_of_an_invoice_is_compared() -> None:
    """`payment_under_way` has a test of its own. For `too_many_refunds` it takes a hundred: tests/contracts/test_kit_fake.py."""
    assert set(RejectionReason) - {"too_many_refunds", "payment_under_way"} <= set(REJECTED)


@pytest.mark.parametrize("reason", REJECTED)
async def test_a_command_is_rejected(remit: Remit, reason: str) -> None:
    command = await REJECTED[reason](remit)
    for _ in range(2):  # the same command gets the same answer
        with pytest.raises(Rejected) as rejected:
            await remit.answer(command)
        assert (rejected.value.reason, rejected.value.command) == (reason, command)


async def test_a_rejection_says_which_member_is_wrong(remit: Remit) -> None:
    with pytest.raises(Rejected, match=r"invalid_data \(data\.currency: "):
        await remit.answer(await _in_no_currency(remit))


async def test_a_command_that_comes_again_is_done_once(remit: Remit) -> None:
    invoice = await issued(remit)
    command = pay_invoice(invoice, **EUR, method=VISA)
    kept = Command.from_json(command.to_json())
    assert kept == command
    first = await remit.outcome(command)
    assert await remit.outcome(kept) == first
    both: list[PaymentOutcome | RefundOutcome] = await asyncio.gather(*(remit.outcome(kept) for _ in range(5)))
    assert both == [first] * 5


async def test_a_payment_in_doubt_has_no_outcome_yet(remit: Remit, system_or_none: System | None) -> None:
    invoice = await issued(remit)
    command = pay_invoice(invoice, **EUR, method=Token("pm_remit_broken_for_good"))
    assert ENDINGS["pm_remit_broken_for_good"] == IN_DOUBT

    async def is_in_doubt() -> bool:
        with pytest.raises((NoAnswer, NoOutcome)) as waiting:
            await remit.outcome(command, within_s=0.5)
        told = waiting.value
        if not isinstance(told, NoOutcome):  # no answer so soon, on a busy machine
            return False
        assert told.subject_id == command.subject_id
        return told.in_doubt

    await until(is_in_doubt, what="the doubt", within_s=30)
    with pytest.raises(Rejected, match="payment_under_way"):
        await remit.pay(invoice, **EUR, method=VISA)
    if system_or_none is None:
        assert isinstance(remit, FakeRemit)
        remit.settle(command.subject_id, "decided_by_person")
        ended = await remit.outcome(command)
        assert isinstance(ended, PaymentFailed)
        assert (ended.outcome, ended.reason) == ("not_charged", "decided_by_person")


async def test_who_listens_hears_each_event_until_it_is_taken(open_remit: OpenRemit) -> None:
    heard: list[Event] = []
    failed: list[str] = []

    async def note(event: Event) -> None:
        if event.name == "InvoicePaid" and not failed:
            failed.append(event.id)
            raise RuntimeError("the database is away")
        heard.append(event)

    async with open_remit(on_event=note) as remit:
        invoice, outcome = await paid(remit)
    mine = [event for event in heard if event.data["invoice_id"] == invoice]
    assert [event.name for event in mine] == ["InvoiceIssued", "InvoicePaid"]
    assert mine[1].data["payment_id"] == str(outcome.payment_id)
    assert failed == [mine[1].id]


async def test_who_is_told_of_an_event_may_send_a_command_and_wait_for_no_outcome(open_remit: OpenRemit) -> None:
    """An outcome is an event: it would wait behind the one of which it is told now."""
    opened: list[Remit] = []
    refused: list[str] = []
    voided = asyncio.Event()

    async def void_it(event: Event) -> None:
        if event.name == "InvoiceIssued" and event.data["invoice_id"] == invoice:
            with pytest.raises(RuntimeError, match="before on_event has returned") as waits:
                await opened[0].pay(invoice, **EUR, method=VISA)
            refused.append(str(waits.value))
            await opened[0].void(invoice, reason="nobody wants it")
        elif event.name == "InvoiceVoided" and event.data["invoice_id"] == invoice:
            voided.set()

    invoice = new_invoice()
    async with open_remit(on_event=void_it) as remit, asyncio.timeout(60):
        opened.append(remit)
        await remit.issue(invoice, customer_id="C-1", **EUR)
        await voided.wait()
        with pytest.raises(Rejected, match="invoice_void"):  # what was refused was not sent
            await remit.pay(invoice, **EUR, method=VISA)
    assert len(refused) == 1


def test_a_blocking_call_in_on_event_says_that_it_would_wait_for_itself(open_remit: OpenRemit) -> None:
    invoice = new_invoice()
    told = threading.Event()

    async def call(event: Event) -> None:
        if event.data["invoice_id"] == invoice:
            with pytest.raises(RuntimeError, match="await the method of the Remit"):
                blocking.void(invoice, reason="a mistake")
            told.set()

    with BlockingRemit(open_remit(on_event=call)) as blocking:
        blocking.issue(invoice, customer_id="C-1", **EUR)
        assert told.wait(30)


def test_the_same_without_asyncio(open_remit: OpenRemit) -> None:
    invoice = new_invoice()
    with BlockingRemit(open_remit()) as remit:
        remit.issue(invoice, customer_id="C-1", **EUR)
        command = pay_invoice(invoice, **EUR, method=VISA)
        assert isinstance(remit.outcome(command), Paid)
        remit.answer(command)
        assert isinstance(remit.refund(invoice, currency="EUR", reason="damaged"), Refunded)
        other = new_invoice()
        remit.issue(other, customer_id="C-1", **EUR)
        assert isinstance(remit.pay(other, **EUR, method=VISA), Paid)
        with pytest.raises(Rejected, match="already_paid"):
            remit.void(other, reason="a mistake")
    assert not [thread for thread in threading.enumerate() if thread.name == "remit-kit"]


# -- trouble on the way --------------------------------------------------------------------------------------------------------------------


async def test_a_lost_confirm_of_the_fake_costs_a_second_message_and_nothing_else() -> None:
    async with FakeRemit() as remit:
        invoice = await issued(remit)
        remit.confirms_to_lose = 2
        command = pay_invoice(invoice, **EUR, method=VISA)
        assert isinstance(await remit.outcome(command), Paid)
        assert {sent.to_json() for sent in remit.sent[1:]} == {command.to_json()}


async def test_a_fake_that_is_down_answers_when_it_is_back() -> None:
    async with FakeRemit() as remit:
        remit.go_down()
        command = issue_invoice(new_invoice(), customer_id="C-1", **EUR)
        with pytest.raises(NoAnswer) as waiting:
            await remit.answer(command, within_s=0.01)
        assert waiting.value.confirmed
        remit.confirms_to_lose = 1000
        with pytest.raises(NoAnswer) as waiting:
            await remit.answer(command, within_s=0.01)
        assert not waiting.value.confirmed
        remit.confirms_to_lose = 0
        remit.come_back()
        await remit.answer(waiting.value.command)


def test_trouble_is_made_from_any_thread() -> None:
    """Whoever settles a doubt of a blocking fake does so beside its event loop, which has to be woken."""
    fake = FakeRemit()
    with BlockingRemit(fake) as remit:
        remit.issue("INV-1", customer_id="C-1", **EUR)
        command = pay_invoice("INV-1", **EUR, method=Token("pm_remit_broken_for_good"))
        remit.answer(command)
        fake.settle(command.subject_id, "paid")
        assert isinstance(remit.outcome(command, within_s=30), Paid)
        with pytest.raises(ValueError, match="no payment"):
            fake.settle(command.subject_id, "decided_by_person")
        fake.go_down()
        with pytest.raises(NoAnswer):
            remit.void("INV-2", reason="a mistake", within_s=0.01)
        fake.come_back()
        with pytest.raises(Rejected, match="unknown_invoice"):
            remit.void("INV-2", reason="a mistake")
    with pytest.raises(ValueError, match="no payment"):
        fake.settle(uuid4(), "paid")


def test_a_fake_can_be_opened_again() -> None:
    """Each time in another event loop, as in the tests of a sender that share one."""
    fake = FakeRemit()
    for number in range(2):
        with BlockingRemit(fake) as remit:
            remit.issue(f"INV-{number}", customer_id="C-1", **EUR)
            assert isinstance(remit.pay(f"INV-{number}", **EUR, method=VISA), Paid)


@pytest.mark.system
async def test_a_lost_confirm_or_connection_costs_a_second_message_and_nothing_else(
    system: System, network: Network
) -> None:
    proxy = network.stand_before(system.stack.rabbitmq_url_of(UPSTREAM), speaks=Amqp)
    async with Remit(proxy.url) as remit:
        invoice, other = await issued(remit), await issued(remit)
        lost = proxy.drop(FrameEvent.CONFIRM)
        assert isinstance(await remit.pay(invoice, **EUR, method=VISA), Paid)
        assert lost.fired == 1
        proxy.reset()
        assert isinstance(await remit.pay(other, **EUR, method=VISA), Paid)


@pytest.mark.system
async def test_an_event_whose_connection_is_lost_is_told_again_and_never_twice_at_once(
    system: System, network: Network
) -> None:
    proxy = network.stand_before(system.stack.rabbitmq_url_of(UPSTREAM), speaks=Amqp)
    invoice = new_invoice()
    begun, told = asyncio.Event(), asyncio.Event()
    cancelled: list[str] = []

    async def note(event: Event) -> None:
        if event.data["invoice_id"] != invoice:
            return
        if begun.is_set():
            told.set()
            return
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert not told.is_set()
            cancelled.append(event.name)
            raise

    async with Remit(proxy.url, on_event=note) as remit, asyncio.timeout(60):
        await remit.issue(invoice, customer_id="C-1", **EUR)
        await begun.wait()
        proxy.reset()
        await told.wait()
    assert cancelled == ["InvoiceIssued"]


@pytest.mark.system
async def test_a_good_ending_is_not_logged_as_trouble(system: System, caplog: pytest.LogCaptureFixture) -> None:
    """A queue that is deleted under its consumer makes the AMQP client warn, on the screen of whoever has not set up logging."""
    async with Remit(system.stack.rabbitmq_url_of(UPSTREAM)) as remit:
        await paid(remit)
    assert [record for record in caplog.records if record.levelname not in {"DEBUG", "INFO"}] == []


@pytest.mark.system
async def test_a_queue_of_ones_own_keeps_what_comes_meanwhile(system: System) -> None:
    url = system.stack.rabbitmq_url_of(UPSTREAM)
    name = f"{UPSTREAM}.kit-{uuid4().hex[:8]}"
    heard: list[Event] = []

    async def note(event: Event) -> None:
        heard.append(event)

    try:
        async with Remit(url, queue=name, on_event=note) as remit:
            invoice = await issued(remit)
            command = pay_invoice(invoice, **EUR, method=VISA)
        async with Remit(url) as other:
            await other.outcome(command)  # while nobody is at the queue
        async with Remit(url, queue=name, on_event=note) as remit:
            assert isinstance(await remit.outcome(command), Paid)
        names = [event.name for event in heard if event.data["invoice_id"] == invoice]
        assert names == ["InvoiceIssued", "InvoicePaid"]
    finally:
        await delete_queues(url, name)


@pytest.mark.system
async def test_the_same_client_may_be_opened_again(system: System) -> None:
    remit = Remit(system.stack.rabbitmq_url_of(UPSTREAM))
    for _ in range(2):
        async with remit:
            await paid(remit)


@pytest.mark.system
async def test_what_on_event_has_begun_is_ended_and_does_not_come_again(system: System) -> None:
    url = system.stack.rabbitmq_url_of(UPSTREAM)
    name = f"{UPSTREAM}.kit-{uuid4().hex[:8]}"
    heard: list[str] = []
    has_begun, may_end, second_was_heard = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(event: Event) -> None:
        has_begun.set()
        await may_end.wait()
        heard.append(event.data["invoice_id"])

    async def quick(event: Event) -> None:
        heard.append(event.data["invoice_id"])
        if event.data["invoice_id"] == second:
            second_was_heard.set()

    try:
        async with asyncio.timeout(60):
            async with Remit(url, queue=name, on_event=slow) as remit:
                first = await issued(remit)
                await has_begun.wait()
                asyncio.get_running_loop().call_later(0.3, may_end.set)  # when the end has begun; later is as good
            async with Remit(url, queue=name, on_event=quick) as remit:
                second = new_invoice()
                await remit.issue(second, customer_id="C-1", **EUR)
                await second_was_heard.wait()
        assert [invoice for invoice in heard if invoice in {first, second}] == [first, second]
    finally:
        await delete_queues(url, name)


async def delete_queues(url: str, name: str) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        for end in ("answers", "events"):
            await channel.queue_delete(f"{name}.{end}")


@pytest.mark.system
async def test_what_is_not_allowed_or_not_there_is_said_at_once(system: System) -> None:
    url = system.stack.rabbitmq_url_of(OPERATOR)
    with pytest.raises(AccessRefused, match=r"invoice\.events.*permissions of a sender and a listener"):
        async with Remit(url):
            pass
    async with Remit(url, listen=False) as sender:
        invoice = await issued(sender)
        with pytest.raises(ValueError, match="listen=False"):
            await sender.pay(invoice, **EUR, method=VISA)
        await sender.answer(pay_invoice(invoice, **EUR, method=VISA))
    async with Remit(system.stack.rabbitmq_url_of(LISTENER)) as listener:
        with pytest.raises(AccessRefused, match=r"invoice\.commands\.entry"):
            await issued(listener)
    with pytest.raises(AccessRefused, match="user name and password"):
        async with Remit(url.replace("remit:", "remit:wrong")):
            pass
    with pytest.raises(AccessRefused, match="virtual host"):
        async with Remit(system.stack.vhost_url("nowhere")):
            pass


@pytest.mark.system
async def test_a_queue_that_cannot_be_taken_is_told_with_the_reason(system: System) -> None:
    """Each wants something else to be done."""
    url = system.stack.rabbitmq_url_of(UPSTREAM)
    name = f"{UPSTREAM}.kit-{uuid4().hex[:8]}"
    answers = f"{name}.answers"

    async def problem() -> str:
        with pytest.raises(NotConnected) as refused:
            async with Remit(url, queue=name):
                pass
        return str(refused.value)

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(answers, exclusive=True)
        assert "belongs to another connection alone" in await problem()
        await channel.queue_delete(answers)
        await channel.declare_queue(answers, durable=True)
        assert re.search("inequivalent arg.*of another kind: delete it, or name another", await problem())
        await channel.queue_delete(answers)


@pytest.mark.system
async def test_another_name_than_that_of_the_connection_is_told_as_such(system: System) -> None:
    async with Remit(system.stack.rabbitmq_url_of(UPSTREAM), user="somebody", listen=False) as remit:
        with pytest.raises(AccessRefused, match="`user` must be the name with which you log in"):
            await issued(remit)


@pytest.fixture
def bare_vhost(stack: Stack) -> Iterator[str]:
    """The URL of a virtual host in which there is nothing of Remit."""
    if stack.kind == "given":
        pytest.skip("a given broker gets no virtual host of ours")
    name = f"bare_{uuid4().hex[:8]}"
    yield stack.create_vhost(name)
    stack.drop_vhost(name)


@pytest.mark.system
async def test_a_command_that_no_queue_takes_says_so(bare_vhost: str) -> None:
    """As in a virtual host where only the exchange was made."""
    async with await aio_pika.connect(bare_vhost) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(COMMANDS, "fanout", durable=True)
        async with Remit(bare_vhost, listen=False) as remit:
            command = issue_invoice(new_invoice(), customer_id="C-1", **EUR)
            with pytest.raises(NoAnswer, match=r"did not confirm it \(no queue takes invoice\.commands\.entry"):
                await remit.answer(command, within_s=5)
            full: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish"}
            queue = await channel.declare_queue("full", exclusive=True, arguments=full)
            await queue.bind(exchange)
            with pytest.raises(NoAnswer, match=r"did not confirm it \(the broker refused it"):
                await remit.answer(command, within_s=5)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ChannelPreconditionFailed("PRECONDITION_FAILED - unknown delivery tag 5"), None),
        (ChannelPreconditionFailed("PRECONDITION_FAILED - delivery acknowledgement on channel 2 timed out"), None),
        (ChannelPreconditionFailed("PRECONDITION_FAILED - fast reply consumer does not exist"), None),
        (ChannelNotFoundEntity("NOT_FOUND - home node of durable queue 'q' is down or inaccessible"), None),
        (
            ChannelNotFoundEntity("NOT_FOUND - no exchange 'invoice.commands.entry' in vhost '/'"),
            "is this the virtual host of Remit",
        ),
        (
            ChannelPreconditionFailed("PRECONDITION_FAILED - message size 17 is larger than configured max size 16"),
            "of this size",
        ),
    ],
    ids=str,
)
def test_what_passes_by_itself_is_no_mistake_of_the_sender(error: Exception, told: str | None) -> None:
    mistake = broker._mistake(error)
    assert mistake is None if told is None else told in str(mistake)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://broker/", "must be like amqp://"),
        ("broker:5672", "must be like amqp://"),
        ("amqp://shop:secret@broker/a/b", "write it as %2F"),
        ("amqp://shop:secret@broker/%2F/", "no / behind it"),
        ("amqp://shop:secret@broker/%2F?connection_attempts=3", "has the parameter connection_attempts"),
        ("amqp://shop:sec?secret@broker/%2F", "write them as %3F and %23"),
        ("amqp://shop:sec#secret@broker/%2F", "write them as %3F and %23"),
        ("amqp://shop:\u2100secret@broker/%2F", "must be like amqp://"),
        ("amqp://shop:secret@broker:port/%2F", "must be like amqp://"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_shown(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        Remit(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("path", ["", "/", "/%2F", "/%2f", "/a%2Fb", "/shop?heartbeat=30&timeout=5"])
def test_urls_are_read_as_other_clients_read_them(path: str) -> None:
    Remit(f"amqp://shop:s%2Fecret@broker:5672{path}", queue="shop.billing")


@pytest.mark.parametrize("body", [b"7", b"[]", b'"x"', b"{}", b'{"type": "x"}', b'{"id": 1, "type": 2}', b"\xff"])
def test_what_is_no_event_is_told_as_such(body: bytes) -> None:
    """Whatever else it raised would leave the message unacknowledged, and in the end stop the queue."""
    with pytest.raises((ValueError, KeyError)):
        Event.read(body)


async def test_a_command_id_of_ones_own_goes_with_the_payment_id() -> None:
    """Called again after a crash, it would draw a new payment id, and be another command under the same id."""
    async with FakeRemit() as remit:
        with pytest.raises(ValueError, match="without payment_id"):
            await remit.pay("INV-1", **EUR, method=VISA, command_id=uuid4())
        with pytest.raises(ValueError, match="without refund_id"):
            await remit.refund("INV-1", currency="EUR", reason="r", command_id=uuid4())


def test_a_queue_is_named_after_its_user() -> None:
    with pytest.raises(ValueError, match=r"must begin with shop\."):
        Remit("amqp://shop:secret@broker", queue="billing")


def test_nothing_secret_is_shown() -> None:
    command = pay_invoice("INV-1", **EUR, method=Token("pm_secret"))
    assert "pm_secret" not in repr(command) + str(NoAnswer(command, confirmed=True))
    assert "4242" not in repr(Card("4242424242424242", 12, 2034)) + repr(Token("4242"))
    assert json.loads(command.to_json())["data"]["method"]["token"] == "pm_secret"
