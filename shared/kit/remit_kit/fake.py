"""Remit in memory, for the tests of a sender. The client is the real one; only the way to Remit, and Remit itself, are imitated.

One test-suite runs against this and against the real services (tests/system/test_kit.py in Remit's repository), and its decisions are
compared with those of the services on drawn commands. What it knows of a token stands in `ENDINGS`. It does not imitate the scan for card
data, staff, or other senders.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any
from uuid import UUID, uuid5

from remit_kit.books import ENDINGS, IN_DOUBT, PAID, Books, CardRefused
from remit_kit.client import OnEvent, Remit
from remit_kit.commands import SOURCE, Command
from remit_kit.errors import NotConfirmed
from remit_kit.outcomes import Event
from remit_kit.rules import Refusal

__all__ = ["ENDINGS", "IN_DOUBT", "PAID", "FakeRemit"]

KEY_BITS = 2048


class FakeRemit(Remit):
    """A `Remit` without a broker.

        async with FakeRemit() as remit:
            await remit.issue("INV-1", customer_id="C-1", amount_minor=100, currency="EUR")

    Make the trouble that your code has to stand: `confirms_to_lose` counts down, and each time a command arrives and its sender does not
    hear so; from `go_down` to `come_back` the broker takes commands and Remit answers nothing; `settle` ends a payment that is in doubt.
    `endings` says how payments end, in addition to `ENDINGS`. All of this may be called from any thread, as under a `BlockingRemit`.
    """

    def __init__(
        self, *, on_event: OnEvent | None = None, endings: Mapping[str, str] | None = None, source: str = SOURCE
    ) -> None:
        self._books = Books({**ENDINGS, **(endings or {})}, self._read_card)
        self._answered: dict[UUID, tuple[str, bytes]] = {}
        self._waiting: list[Command] = []
        self._is_down = False
        self._loop: asyncio.AbstractEventLoop | None = None
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
        """A payment in doubt ends: `paid`, or the reason why it failed. Raises ValueError for a payment that has ended, or is none."""
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
            raise CardRefused("card_unreadable") from None
        if read.headers()["remit.payment_id"] != str(payment_id):
            raise CardRefused("card_not_for_this_payment")
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
            self._answered[command.id] = (content, _answer(command.id, self._books.decide(command)))
        before, told = self._answered[command.id]
        if before != content:
            told = _answer(command.id, Refusal("command_id_reused"))
        self._soon(self._take_answer, command.correlation_id, told)
        self._tell()

    def _tell(self) -> None:
        """Publish what happened."""
        events, self._books.events = self._books.events, []
        for name, data in events:
            about = data.get("refund_id") or data.get("payment_id") or data["invoice_id"]
            id_ = uuid5(UUID(int=0), f"{name} {about}")
            self._soon(self._events.put_nowait, Event(str(id_), name, "2026-01-01T00:00:00+00:00", data))

    def _soon(self, deliver: Callable[..., None], *told: object) -> None:
        """Deliver it in the loop, from whichever thread. What is told after the end nobody hears."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(deliver, *told)

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._delivering = asyncio.create_task(self._deliver())

    async def _close(self) -> None:
        self._loop = None
        self._delivering.cancel()
        await asyncio.gather(self._delivering, return_exceptions=True)

    async def _deliver(self) -> None:
        """Hand over events, one after the other. Answers do not wait for them: whoever is told of an event may send a command."""
        while True:
            await self._take_event(await self._events.get())


def _answer(command_id: UUID, refusal: Refusal | None) -> bytes:
    data = {
        "command_id": str(command_id),
        "answer": "accepted" if refusal is None else "rejected",
        "reason": None if refusal is None else refusal.reason,
        "detail": None if refusal is None else refusal.detail,
    }
    event = {"id": str(uuid5(command_id, "answer")), "type": "remit.invoice.CommandAnswered.v1", "data": data}
    return json.dumps(event).encode()


class _Memory:
    """The way to a fake. See `remit_kit.client.Transport`."""

    def __init__(self, fake: FakeRemit) -> None:
        self._fake = fake

    async def open(self, _on_answer: Callable[[str, bytes], None], _on_event: OnEvent) -> None:
        """Begin to deliver."""
        self._fake._open()  # noqa: SLF001 - two halves of one thing

    async def send(self, command: Command) -> None:
        """Hand the command over."""
        self._fake._receive(command)  # noqa: SLF001

    async def close(self) -> None:
        """End the delivery."""
        await self._fake._close()  # noqa: SLF001
