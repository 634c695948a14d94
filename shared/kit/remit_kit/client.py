"""The client: it sends a command until it is answered, and waits for its outcome.

How messages travel is a `Transport`: RabbitMQ (`remit_kit.broker`), or memory (`remit_kit.fake`). Everything here is the same for both.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast
from uuid import UUID

from remit_kit.broker import Broker
from remit_kit.commands import (
    SOURCE,
    Command,
    EncryptedCard,
    Token,
    issue_invoice,
    new_id,
    pay_invoice,
    refund_invoice,
    void_invoice,
)
from remit_kit.errors import AccessRefused, NoAnswer, NoOutcome, NotConfirmed, Rejected
from remit_kit.outcomes import Event, PaymentOutcome, RefundOutcome, outcome_of

ANSWER_WITHIN_S = 30.0
"""An answer takes a few hundredths of a second. This is long enough for a broker that restarts."""
OUTCOME_WITHIN_S = 60.0
"""Most outcomes take a second. One in doubt can take hours, and a person: nobody waits for that."""
RESEND_AFTER_S = 5.0
"""A command without an answer is sent again after this time, then after twice that, and so on: the answer may have been lost."""
PAUSE_S = 0.3
"""Between tries while the broker confirms nothing, or `on_event` fails. After that it grows."""
PAUSE_MOST_S = 30.0
WAITS_FOR_ITSELF = (
    "no outcome comes before on_event has returned: events come one at a time. In on_event send the command with answer(), "
    "and its outcome will be one of the next events; or wait for it in a task of its own"
)
KEPT_MOST = 10_000
"""Outcomes that came before anybody asked for them. The oldest is forgotten first."""

_Value = TypeVar("_Value")
OnEvent = Callable[[Event], Awaitable[None]]

_log = logging.getLogger("remit_kit")


@dataclass(slots=True)
class _Tries:
    """Whether a command may have been sent, whether the broker has confirmed it, and if not, why not at the last try."""

    tried: bool = False
    confirmed: bool = False
    doubt: NotConfirmed | None = None


class Transport(Protocol):
    """How commands go out, and how answers and events come in."""

    async def open(self, on_answer: Callable[[str, bytes], None], on_event: OnEvent) -> None:
        """Connect and listen. An answer comes with its correlation id. Raises NotConnected or AccessRefused."""
        ...

    async def send(self, command: Command) -> None:
        """Returns once the broker has the command. Raises NotConfirmed if nobody knows, AccessRefused if it is not allowed."""
        ...

    async def close(self) -> None:
        """Disconnect. What was sent goes on."""
        ...


class Remit:
    """A connection to Remit.

        async with Remit("amqp://shop:PASSWORD@broker/%2F") as remit:
            await remit.issue("INV-1", customer_id="C-1", amount_minor=12500, currency="EUR")
            outcome = await remit.pay("INV-1", amount_minor=12500, currency="EUR", method=Token("pm_card_visa"))

    Without `queue`, answers come by direct reply-to, and events to a queue that ends with this object: what happens while no such object is
    there is not heard. With `queue="shop.billing"` (it begins with the name of your user and a dot) they come to the durable queues
    `shop.billing.answers` and `shop.billing.events`, which wait for you. Then give `on_event`, and store what it is told: an event is
    acknowledged once `on_event` has returned. If it raises, it is called again with the same event, after a pause. Events come one at a
    time, so `on_event` may send commands with `issue`, `void` or `answer`, and wait for no outcome: that is an event behind its own.

    `listen=False` is for a user who may send and not listen: it has answers and no outcomes. `user` is the name of your user at the broker,
    if it does not stand in the URL. `source` says in each command where it comes from.
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str | None = None,
        on_event: OnEvent | None = None,
        listen: bool = True,
        user: str | None = None,
        source: str = SOURCE,
    ) -> None:
        self._begin(Broker(url, queue=queue, listen=listen, user=user), on_event, listen=listen, source=source)

    def _begin(self, transport: Transport, on_event: OnEvent | None, *, listen: bool, source: str) -> None:
        self._transport = transport
        self._on_event = on_event
        self._listens = listen
        self._source = source
        self._answers: dict[str, set[asyncio.Future[Mapping[str, Any]]]] = {}
        self._outcomes: OrderedDict[UUID, PaymentOutcome | RefundOutcome] = OrderedDict()
        self._in_doubt: OrderedDict[UUID, None] = OrderedDict()
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[object] | None = None
        """The task in which `on_event` runs now."""

    async def __aenter__(self) -> Self:
        await self._transport.open(self._take_answer, self._take_event)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    # -- in one call -----------------------------------------------------------------------------------------------------------------------

    async def issue(
        self,
        invoice_id: str,
        *,
        customer_id: str,
        amount_minor: int,
        currency: str,
        command_id: UUID | None = None,
        within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        """Issue an invoice. Raises Rejected or NoAnswer."""
        command = issue_invoice(
            invoice_id,
            customer_id=customer_id,
            amount_minor=amount_minor,
            currency=currency,
            command_id=command_id,
            source=self._source,
        )
        await self.answer(command, within_s=within_s)

    async def pay(
        self,
        invoice_id: str,
        *,
        amount_minor: int,
        currency: str,
        method: Token | EncryptedCard,
        payment_id: UUID | None = None,
        command_id: UUID | None = None,
        within_s: float = OUTCOME_WITHIN_S,
    ) -> PaymentOutcome:
        """Pay an invoice and wait for the outcome. Raises Rejected, NoAnswer or NoOutcome.

        If your process may die in between, make the command first (`pay_invoice`), store it, and give it to `outcome`. A `command_id` of
        yours goes with a `payment_id` of yours: a new payment under the same command would be another command.
        """
        _both_or_none(command_id, payment_id, "payment_id")
        command = pay_invoice(
            invoice_id,
            amount_minor=amount_minor,
            currency=currency,
            method=method,
            payment_id=payment_id,
            command_id=command_id,
            source=self._source,
        )
        return cast(PaymentOutcome, await self.outcome(command, within_s=within_s))

    async def void(
        self, invoice_id: str, *, reason: str, command_id: UUID | None = None, within_s: float = ANSWER_WITHIN_S
    ) -> None:
        """Void an invoice. Raises Rejected or NoAnswer."""
        await self.answer(
            void_invoice(invoice_id, reason=reason, command_id=command_id, source=self._source), within_s=within_s
        )

    async def refund(
        self,
        invoice_id: str,
        *,
        currency: str,
        reason: str,
        amount_minor: int | None = None,
        refund_id: UUID | None = None,
        command_id: UUID | None = None,
        within_s: float = OUTCOME_WITHIN_S,
    ) -> RefundOutcome:
        """Give back what paid the invoice, or a part of it, and wait for the outcome. Raises Rejected, NoAnswer or NoOutcome.

        A `command_id` of yours goes with a `refund_id` of yours.
        """
        _both_or_none(command_id, refund_id, "refund_id")
        command = refund_invoice(
            invoice_id,
            currency=currency,
            reason=reason,
            amount_minor=amount_minor,
            refund_id=refund_id or new_id(),
            command_id=command_id,
            source=self._source,
        )
        return cast(RefundOutcome, await self.outcome(command, within_s=within_s))

    # -- with a command that you keep ------------------------------------------------------------------------------------------------------

    async def answer(self, command: Command, *, within_s: float = ANSWER_WITHIN_S) -> None:
        """Send the command, again and again with the same id, until Remit has accepted it.

        It can be called as often as you like, also after a restart: a command that was answered gets the same answer again.
        Raises Rejected, and NoAnswer after `within_s` seconds.
        """
        arrived = asyncio.get_running_loop().create_future()
        self._answers.setdefault(command.correlation_id, set()).add(arrived)
        tries = _Tries()
        try:
            async with asyncio.timeout(within_s):
                await self._send_until(arrived, command, tries)
        except AccessRefused as refused:
            if not tries.tried:
                raise
            # Nobody may send it again. An earlier try may have arrived, so this is no "nothing was sent".
            raise NoAnswer(command, confirmed=tries.confirmed) from refused
        except TimeoutError:
            if not arrived.done():  # else the answer came while a confirm did not
                raise NoAnswer(command, confirmed=tries.confirmed, doubt=tries.doubt) from None
        finally:
            self._answers[command.correlation_id].discard(arrived)
            if not self._answers[command.correlation_id]:
                del self._answers[command.correlation_id]
        told = arrived.result()
        if told["answer"] != "accepted":
            raise Rejected(command, told["reason"], told.get("detail"))

    async def _send_until(
        self, arrived: "asyncio.Future[Mapping[str, Any]]", command: Command, tries: "_Tries"
    ) -> None:
        """Send the command ever more rarely, until its answer has arrived. Raises AccessRefused."""
        resend_after_s, pause_s = RESEND_AFTER_S, PAUSE_S
        while not arrived.done():
            try:
                await self._transport.send(command)
            except NotConfirmed as doubt:
                tries.tried, tries.doubt = True, doubt
                _log.warning("%s %s is sent again: %s", command.name, command.id, doubt)
                await asyncio.wait([arrived], timeout=pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
            else:
                tries.tried = tries.confirmed = True
                tries.doubt = None
                await asyncio.wait([arrived], timeout=resend_after_s)
                resend_after_s *= 2

    async def outcome(self, command: Command, *, within_s: float = OUTCOME_WITHIN_S) -> PaymentOutcome | RefundOutcome:
        """Send a PayInvoice or RefundInvoice as `answer` does, and wait for what comes of it.

        Raises Rejected, NoAnswer, or NoOutcome after `within_s` seconds in all. Raises RuntimeError within `on_event`, and sends nothing:
        the outcome would wait for `on_event` to return.
        """
        if not self._listens:
            raise ValueError("this Remit was made with listen=False, so it hears of no outcome")
        if asyncio.current_task() is self._reader:
            raise RuntimeError(WAITS_FOR_ITSELF)
        about = command.subject_id
        give_up_at = asyncio.get_running_loop().time() + within_s
        await self.answer(command, within_s=within_s)
        try:
            async with asyncio.timeout_at(give_up_at), self._news:
                await self._news.wait_for(lambda: about in self._outcomes)
        except TimeoutError:
            raise NoOutcome(command, in_doubt=about in self._in_doubt) from None
        return self._outcomes[about]

    # -- what comes in ---------------------------------------------------------------------------------------------------------------------

    def _take_answer(self, correlation_id: str, body: bytes) -> None:
        told = Event.read(body).data
        for waiting in self._answers.get(correlation_id, ()):
            if not waiting.done():
                waiting.set_result(told)

    async def _take_event(self, event: Event) -> None:
        await self._tell_reader(event)
        if event.name == "InvoicePaymentInDoubt":
            self._keep(self._in_doubt, UUID(event.data["payment_id"]), None)
        if (found := outcome_of(event)) is None:
            return
        about, outcome = found
        before = self._outcomes.get(about)
        if before is not None and getattr(before, "version", 0) > getattr(outcome, "version", 0):
            return
        async with self._news:
            self._keep(self._outcomes, about, outcome)
            self._news.notify_all()

    async def _tell_reader(self, event: Event) -> None:
        """Give the event to `on_event` until it is taken.

        It is not given back to the broker, which counts how often that is done and throws a message away after some times.
        """
        pause_s = PAUSE_S
        while self._on_event is not None:
            self._reader = asyncio.current_task()
            try:
                await self._on_event(event)
                return
            except Exception:  # noqa: BLE001 - the reader's own, whatever it is
                _log.exception("on_event failed for %s %s, and is called again", event.name, event.id)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
            finally:
                self._reader = None

    @staticmethod
    def _keep(kept: OrderedDict[UUID, _Value], key: UUID, value: _Value) -> None:
        kept[key] = value
        kept.move_to_end(key)
        if len(kept) > KEPT_MOST:
            kept.popitem(last=False)


def _both_or_none(command_id: UUID | None, about: UUID | None, name: str) -> None:
    """A command that comes again under its id must be the same: with a new id in it, it would be refused for good."""
    if command_id is not None and about is None:
        raise ValueError(f"command_id without {name}: after a crash the same command needs the same {name}")
