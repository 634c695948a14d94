"""Whoever may listen to the public exchanges hears nothing that pays: no gateway token and no encrypted card, not even a part of one."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID, uuid4

from deploy.local.stack import Service
from services.invoice.__main__ import assemble as assemble_invoice
from services.invoice.reminders import RequestReminder
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import GatewayStep, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.evidence import evidence
from services.payment_gateway.settings import ChargingSettings
from services.saga.__main__ import assemble as assemble_saga
from services.staff.__main__ import assemble as assemble_staff
from services.staff.actions.dead_letters import replay
from services.staff.people import at_terminal
from services.staff.store import Selection
from shared.amqp.broker_link import BrokerLink
from shared.card_data.encryption import CardDetails, CardKeyring, encrypt_card
from shared.contracts import invoice as messages
from shared.contracts.invoice import EncryptedCardMethod, PaymentMethod, TokenMethod
from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.messaging.topology import EXCHANGES
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.service import Assemble, Runtime
from tests.service.payment_gateway.scripted import Say, ScriptedGateway
from tests.support.card_keys import card_keys
from tests.support.databases import execute, outbox_is_empty, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until

MakeMethod = Callable[[UUID], PaymentMethod]
PART = 8
"""So many characters in a row give a value away."""
TOKEN = "pm_1Qx7ZkVictimsTokenB4hT9u"
PUBLIC = [exchange.name for exchange in EXCHANGES if exchange.type == "topic"]
POLICY = Policy(ladder_s=(0.05, 0.05), remind_s=0.1)


def quoting(token: str) -> str:
    """The evidence of a gateway that quotes what it was sent."""
    return evidence("HTTP 404", "req_1", "resource_missing", f"No such PaymentMethod: '{token}'")


def of_a_token(_: UUID) -> PaymentMethod:
    return TokenMethod(token=TOKEN)


def of_a_card(payment_id: UUID) -> PaymentMethod:
    return EncryptedCardMethod(
        jwe=encrypt_card(
            CardDetails("4242424242424242", 12, 2030), payment_id=payment_id, public_key_jwk=card_keys()[0]["keys"][0]
        )
    )


def parts(method: PaymentMethod) -> set[str]:
    """All that would give the method away."""
    secret = method.token if isinstance(method, TokenMethod) else method.jwe.partition(".")[2]
    # the header of a JWE says how it is encrypted, and for which key: every JWE has the same one
    return {secret[at : at + PART] for at in range(len(secret) - PART + 1)}


@asynccontextmanager
async def everything(environment: Environment, gateway: ScriptedGateway) -> AsyncIterator[None]:
    settings = ChargingSettings("memory://", "", 20.0, 20, POLICY, CardKeyring.load(card_keys()[1]), 10.0)

    async def assemble_gateway(runtime: Runtime) -> None:
        assemble_with(runtime, settings, gateway)

    services: tuple[tuple[Service, Assemble], ...] = (
        ("staff", assemble_staff),
        ("saga", assemble_saga),
        ("payment_gateway", assemble_gateway),
        ("invoice", assemble_invoice),
    )
    async with AsyncExitStack() as running:
        for service, assemble in services:
            await running.enter_async_context(environment.running(service, assemble))
        yield


class Eavesdropper:
    """Somebody who binds `#` to every public exchange."""

    def __init__(self, taps: list[Subscription]) -> None:
        self._taps = taps
        self.heard: list[Received] = []

    async def hears(self, name: str, about: str) -> None:
        """Wait until an event of this name about this invoice was heard."""

        async def heard() -> bool:
            for tap in self._taps:
                self.heard += await tap.waiting()
            return any(f".{name}." in one.type and one.data["invoice_id"] == about for one in self.heard)

        await until(heard, what=f"{name} of {about}")

    def text(self, about: str) -> str:
        """All that was heard of this invoice: bodies, properties and headers."""
        return "\n".join(
            f"{one.message.body.decode()} {one.message.properties} {one.message.headers}"
            for one in self.heard
            if one.data["invoice_id"] == about
        )


async def pay(upstream: UpstreamClient, eavesdropper: Eavesdropper, make: MakeMethod, number: str) -> PaymentMethod:
    payment_id = uuid4()
    method = make(payment_id)
    money = {"invoice_id": number, "amount_minor": 500, "currency": "EUR"}
    await upstream.send(messages.IssueInvoice(customer_id="C-1", **money))
    await eavesdropper.hears("InvoiceIssued", number)
    await upstream.send(messages.PayInvoice(payment_id=payment_id, method=method, **money))
    return method


ENDINGS = {"captured": "InvoicePaid", "declined": "InvoicePaymentFailed", "in doubt": "PaymentNeedsDecision"}
"""The event by which everybody hears how a payment ended."""


async def test_nobody_hears_what_pays(environment: Environment, upstream: UpstreamClient) -> None:
    """A payment by token and one by card for each way to end, one after the other."""
    gateway, methods = ScriptedGateway(), dict[str, PaymentMethod]()
    eavesdropper = Eavesdropper([await upstream.tap(exchange, "#") for exchange in PUBLIC])
    stumble = Say(port.Unknown(quoting(TOKEN)))
    async with everything(environment, gateway):
        for ending, event in ENDINGS.items():
            for make in (of_a_token, of_a_card):
                # At first the gateway stumbles, and quotes what it was sent: in every way in which a payment can go on after that.
                if make is of_a_card:
                    gateway.then(GatewayStep.TOKENISE, stumble)
                gateway.then(GatewayStep.PREPARE, stumble)
                if ending == "declined":
                    gateway.then(GatewayStep.EXECUTE, Say(port.Declined("card_declined", quoting(TOKEN))))
                elif ending == "in doubt":
                    gateway.always(GatewayStep.EXECUTE, stumble)
                    gateway.always(GatewayStep.INQUIRE, stumble)
                number = f"INV-{len(methods)}"
                methods[number] = await pay(upstream, eavesdropper, make, number)
                await eavesdropper.hears(event, number)
    for number, method in methods.items():
        heard = eavesdropper.text(number)
        found = sorted(part for part in parts(method) if part in heard)
        assert not found, f"heard of {number}: {found}"
    kept = await rows(
        environment.databases["payment_gateway"],
        "SELECT DISTINCT invoice_id, evidence FROM attempts JOIN payments USING (payment_id) ORDER BY 1",
    )
    quoted = [row["invoice_id"] for row in kept if "No such PaymentMethod: '****'" in row["evidence"]]
    by_token = {number for number, method in methods.items() if isinstance(method, TokenMethod)}
    assert by_token <= {*quoted}, "the gateway did quote it"


async def test_nobody_hears_what_pays_when_it_is_requested_again_or_replayed(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """Overdue, while the payment-gateway service is away; then as a dead letter of a later version, which staff replay."""
    eavesdropper = Eavesdropper([await upstream.tap(exchange, "#") for exchange in PUBLIC])
    private = await upstream.tap("invoice.requests")
    async with environment.running("invoice", assemble_invoice), environment.running("staff", assemble_staff):
        method = await pay(upstream, eavesdropper, of_a_token, "INV-1")
        first = await private.next()
        await execute(environment.databases["invoice"], "UPDATE payments SET announced_at = now() - interval '1 hour'")
        await remind(environment)
        again = await private.next()
        later = first.message.body.replace(b"PaymentRequested.v1", b"PaymentRequested.v9")
        await upstream.send_raw(later, message_id=str(uuid4()))
        await dead_letter(environment, seen=1)
        await replayed(environment)
        await dead_letter(environment, seen=2)
        await eavesdropper.hears("InvoicePaymentOverdue", "INV-1")
    assert again.message.body == first.message.body, "it was requested again"
    heard = eavesdropper.text("INV-1")
    assert not sorted(part for part in parts(method) if part in heard)


async def remind(environment: Environment) -> None:
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=2)
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test"))
    try:
        assert await RequestReminder(database, Relay(database, publisher), older_than_s=30).remind() == 1
    finally:
        await publisher.close()
        await database.close()


async def dead_letter(environment: Environment, *, seen: int) -> None:
    async def arrived() -> bool:
        return bool(await rows(environment.databases["staff"], "SELECT 1 FROM dead_letters WHERE seen = $1", seen))

    await until(arrived, what="the dead letter")


async def replayed(environment: Environment) -> None:
    database = await Database.open(environment.databases["staff"], name="test", connections_max=2)
    try:
        (result,) = await replay(database, Selection(), who=at_terminal("kim"))
    finally:
        await database.close()
    assert result.ok, result.text


async def test_a_request_that_the_build_before_left_in_the_outbox_goes_the_private_way(
    environment: Environment, upstream: UpstreamClient
) -> None:
    eavesdropper = Eavesdropper([await upstream.tap(exchange, "#") for exchange in PUBLIC])
    private = await upstream.tap("invoice.requests")
    url, requested = environment.databases["invoice"], messages.InvoicePaymentRequested.wire_name
    before = Outgoing(uuid4(), "invoice.events", f"{requested}.overdue", requested, "c", b"{}")
    database = await Database.open(url, name="test", connections_max=2)
    try:
        async with database.transaction() as tx:
            await outbox.insert(tx, [before], sweep_after_s=0)
    finally:
        await database.close()
    async with environment.running("invoice", assemble_invoice):
        assert (await private.next()).id == str(before.id)
        await outbox_is_empty(url)
    assert [await tap.waiting() for tap in eavesdropper._taps] == [[] for _ in PUBLIC]
