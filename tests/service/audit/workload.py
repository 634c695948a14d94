"""The workload behind the books: stories that real services play to their end, each under ids that say which story it is.

The services are processes, and the sandbox is their gateway. An independent listener records what every queue received, and the sender
keeps its own history. In the end the services stop, so nothing moves the books any more.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from deploy.demo.scenes import VISA, Stage
from deploy.demo.upstream import Upstream
from deploy.local.stack import SERVICES, UPSTREAM
from deploy.local.system import System, open_system_on, wait_until_drained
from deploy.sandbox.faults import Deed
from services.audit.queues import read_queues
from services.staff.actions import accounts, dead_letters, payments
from services.staff.actions.second_thoughts import EDIT_AND_REPLAY
from services.staff.people import Role, at_terminal
from services.staff.store import Selection
from shared.contracts.base import Contract
from shared.contracts.invoice import IssueInvoice, PayInvoice, RefundInvoice, VoidInvoice
from shared.messaging.topology import HEARTBEATS
from shared.persistence.database import Database
from tests.faults.tap import Tap
from tests.support.databases import rows, truncate
from tests.support.environment import Environment
from tests.support.seals import seal
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

AMOUNT_MINOR, PART_MINOR, CURRENCY = 1_250, 500, "EUR"
WITHIN_S = 60.0
IMPATIENT = {"GATEWAY_TIMEOUT_S": "1", "GATEWAY_LADDER_S": "0.2,0.4", "GATEWAY_FIND_AFTER_S": "3600"}
SILENT = "pm_remit_never_answers"
"""A token: charged, and from then on the gateway says nothing of this payment."""
WHO = at_terminal("Ada")
AT_REST = """
    SELECT 1 AS rested WHERE NOT EXISTS (
        SELECT FROM payments WHERE leased_by IS NOT NULL OR due_at < now() + interval '1 minute')"""
"""Nobody asks the gateway, nor will soon."""


def command(name: str) -> UUID:
    """The id of a command in these stories."""
    return uuid5(UUID(int=7), f"command {name}")


def payment(name: str) -> UUID:
    """The id of a payment in these stories."""
    return uuid5(UUID(int=7), f"payment {name}")


def refund(name: str) -> UUID:
    """The id of a refund in these stories."""
    return uuid5(UUID(int=7), f"refund {name}")


def invoice(name: str) -> str:
    """The id of an invoice in these stories."""
    return f"INV-{name}"


@dataclass(frozen=True, slots=True)
class Player:
    """Plays stories on a running system."""

    system: System
    upstream: Upstream
    databases: Mapping[str, str]
    staff: Database

    async def ask(self, name: str, asked: Contract, answer: str = "accepted") -> None:
        got = (await self.upstream.ask(asked, command_id=command(name)))[1]
        assert (got.reason or got.answer) == answer, f"{name}: {got}"

    async def issue(self, name: str) -> None:
        issued = IssueInvoice(invoice_id=invoice(name), customer_id="C-1", amount_minor=AMOUNT_MINOR, currency=CURRENCY)
        await self.ask(f"issue {name}", issued)

    def paying(self, name: str, token: str) -> PayInvoice:
        keys: Any = self.system.public_keys["keys"]
        stage = Stage(self.upstream, keys[0])
        method: Any = stage.card(VISA, payment(name)) if token == VISA else token
        asked = stage.pay(invoice(name), method, payment(name))
        return asked.model_copy(update={"amount_minor": AMOUNT_MINOR, "currency": CURRENCY})

    async def pay(self, name: str, token: str, ends: str | None) -> None:
        """An invoice that is issued and paid. `ends`: the outcome that its sender hears of; None: it waits for a person."""
        await self.issue(name)
        await self.ask(f"pay {name}", self.paying(name, token))
        assert await self.upstream.outcome(payment(name), within_s=WITHIN_S) == ends, name

    async def parted(self, name: str) -> None:
        """A paid invoice of which upstream asked a part back."""
        await self.pay(name, "pm_card_visa", "paid")
        part = RefundInvoice(
            invoice_id=invoice(name),
            refund_id=refund(name),
            amount_minor=PART_MINOR,
            currency=CURRENCY,
            reason="damaged",
        )
        await self.ask(f"refund {name}", part)
        assert await self.upstream.refund_outcome(refund(name), within_s=WITHIN_S) == "refunded"

    async def voided(self, name: str) -> None:
        """An invoice that was issued and voided; a payment of it is rejected."""
        await self.issue(name)
        await self.ask(f"void {name}", VoidInvoice(invoice_id=invoice(name), reason="mistake"))
        await self.ask(f"pay {name}", self.paying(name, "pm_card_visa"), "invoice_void")

    async def decided(self, name: str) -> None:
        """The gateway is silent; a person saw the money in its books, and decided."""
        await self.pay(name, SILENT, None)
        charge = self.system.sandbox.show(str(payment(name)))["charges"][0]["id"]
        await self.resolve(name, "captured", charge)
        await self._until(name, "paid")

    async def late(self, name: str) -> None:
        """A person took a silent gateway's payment for not charged; then the capture was found, and the saga had it refunded."""
        await self.pay(name, SILENT, None)
        intent = self.system.sandbox.show(str(payment(name)))["payment_intents"][0]["id"]
        await self.resolve(name, "not_charged", None)
        await self._until(name, "open")
        await asyncio.to_thread(self.system.sandbox.do, Deed.HEAL, intent)
        asked = await payments.ask(self.staff, payment(name), who=WHO)
        assert asked.ok, asked
        query = "SELECT 1 FROM payments WHERE payment_id = $1 AND status = 'refunded'"
        await until(lambda: rows(self.databases["payment_gateway"], query, payment(name)), within_s=WITHIN_S)

    async def resolve(self, name: str, resolution: Any, receipt: str | None) -> None:
        """Decide about the case once it waits for that."""
        query = "SELECT version FROM cases WHERE payment_id = $1 AND status = 'needs_decision'"
        found = await until(lambda: rows(self.databases["staff"], query, payment(name)), within_s=WITHIN_S)
        done = await payments.resolve(
            self.staff,
            payment(name),
            resolution=resolution,
            expected_version=found[0]["version"],
            evidence="seen in the gateway's books",
            reason="the gateway is silent",
            who=WHO,
            receipt_number=receipt,
        )
        assert done.ok, done

    async def _until(self, name: str, status: str) -> None:
        query = "SELECT 1 FROM invoices WHERE invoice_id = $1 AND status = $2"
        await until(lambda: rows(self.databases["invoice"], query, invoice(name), status), within_s=WITHIN_S)

    async def dead(self, name: str) -> UUID:
        """A command that no build of today can read; returns the id of its dead letter."""
        asked = self.paying(name, "pm_card_visa")
        await self.upstream.send(asked, command_id=command(name), type="remit.invoice.PayInvoice.v9")
        query = "SELECT id FROM dead_letters WHERE event_id = $1 OR message_id = $1::uuid::text"
        found = await until(lambda: rows(self.databases["staff"], query, command(name)), within_s=WITHIN_S)
        return UUID(str(found[0]["id"]))

    async def discarded(self, name: str) -> None:
        """A dead letter that a person discarded; its sender was answered."""
        letter = await self.dead(name)
        await dead_letters.discard(self.staff, Selection(ids=(letter,)), who=WHO, reason="nobody wrote it")
        await self.upstream.answer(command(name))


async def let_in(staff: Database) -> None:
    """People and programs who may use the desk, with other roles and fewer of them than at first."""
    roles = (Role.VIEWER, Role.RESOLVER)
    for name in ("Grace", "Alan"):
        await accounts.add_person(staff, name, roles=roles, password="as argon2 wrote it", who=WHO)
        await accounts.make_token(staff, f"program-of-{name}", roles=roles, days=1, who=WHO)
    await accounts.set_roles(staff, "Grace", roles=(Role.VIEWER,), who=WHO)
    await accounts.set_active(staff, "Alan", active=False, who=WHO)
    await accounts.revoke_token(staff, "program-of-Alan", who=WHO)
    await accounts.change_setting(staff, EDIT_AND_REPLAY, False, who=WHO)


async def empty_queues(rabbitmq_url: str) -> None:
    """Leave no message in any queue."""
    async with UpstreamClient.open(rabbitmq_url) as client:
        await client.purge()


async def are_heard(rabbitmq_url: str) -> bool:
    """Whether no message waits in any queue but that of heartbeats."""
    queues = await read_queues(rabbitmq_url, look_into=False)
    return not any(queue is not None and queue.ready for name, queue in queues.items() if name != HEARTBEATS)


def stories(player: Player) -> dict[str, Callable[[str], Awaitable[object]]]:
    """Every story by its name."""
    return {
        "paid": lambda name: player.pay(name, "pm_card_visa", "paid"),
        "carded": lambda name: player.pay(name, VISA, "paid"),
        "declined": lambda name: player.pay(name, "pm_card_chargeDeclined", "declined"),
        "doubted": lambda name: player.pay(name, "pm_remit_charged_then_500", "paid"),
        "waiting": lambda name: player.pay(name, SILENT, None),
        "decided": player.decided,
        "late": player.late,
        "void": player.voided,
        "parted": player.parted,
        "poison": player.dead,
        "discarded": player.discarded,
    }


async def play(system: System, databases: Mapping[str, str], tap: Path) -> None:
    """Play all stories at once in empty stores, and wait until only what waits for a person is left."""
    await asyncio.gather(*(truncate(url) for url in databases.values()))
    await empty_queues(system.stack.rabbitmq_url)
    staff = await Database.open(databases["staff"], name="workload", connections_max=4)
    try:
        async with Tap.open(system.stack.rabbitmq_url, tap):
            for service in SERVICES:
                await asyncio.to_thread(system.fleet.start, service)
            url = system.stack.rabbitmq_url_of(UPSTREAM)
            async with Upstream.open(url, name="books", history=system.history) as upstream:
                player = Player(system, upstream, databases, staff)
                await asyncio.gather(*(story(name) for name, story in stories(player).items()), let_in(staff))
            await asyncio.to_thread(wait_until_drained, system)
            await until(lambda: rows(databases["payment_gateway"], AT_REST), within_s=WITHIN_S)
            for service in SERVICES:  # staff hear the others, and so come last
                await until(lambda: are_heard(system.stack.rabbitmq_url), within_s=WITHIN_S)
                await asyncio.to_thread(system.fleet.stop, service)
        await empty_queues(system.stack.rabbitmq_url)  # of the last heartbeats
        await seal(databases)
    finally:
        await staff.close()


def finish_workload(environment: Environment, folder: Path) -> None:
    """Leave finished books in all stores: in the databases of the environment, and in this folder."""
    with open_system_on(environment.stack, **IMPATIENT) as system:
        asyncio.run(play(system, environment.databases, folder / "tap.jsonl"))
        shutil.copy(system.history, folder / "history.jsonl")
        (folder / "logs").mkdir()
        for log in system.folder.glob("*.log"):
            shutil.copy(log, folder / "logs" / log.name)
        ledger = system.ledger
        system.sandbox.stop()
        for part in ledger.parent.glob(f"{ledger.name}*"):
            shutil.copy(part, folder / part.name)
