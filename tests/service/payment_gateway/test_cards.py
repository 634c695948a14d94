"""A card that is encrypted for this service is exchanged for a token before anything is charged, and erased."""

from typing import Any
from uuid import uuid4

from services.payment_gateway.domain import GatewayStep
from shared.card_data.encryption import CardDetails, CardKeyring, CardRefusal, encrypt_card, generate_keyset
from shared.contracts import invoice
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, Start, kind
from tests.service.payment_gateway.scripted import Hold, ScriptedGateway
from tests.support.card_keys import Keyset
from tests.support.databases import rows
from tests.support.upstream_client import UpstreamClient

NUMBER = "4242424242424242"


def with_card(public: dict[str, Any]) -> invoice.InvoicePaymentRequested:
    payment_id = uuid4()
    jwe = encrypt_card(CardDetails(NUMBER, 12, 2030), payment_id=payment_id, public_key_jwk=public["keys"][0])
    return invoice.InvoicePaymentRequested(
        invoice_id="INV-1",
        payment_id=payment_id,
        amount_minor=1_250,
        currency="EUR",
        method=invoice.EncryptedCardMethod(jwe=jwe),
    )


async def test_the_token_is_stored_and_the_card_erased_before_anything_is_charged(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway, keyset: Keyset
) -> None:
    public, private = keyset
    held = Hold()
    gateway.then(GatewayStep.PREPARE, held)
    events, asking = await upstream.tap("payment.events"), with_card(public)
    async with start(keyring=CardKeyring.load(private)):
        await upstream.send(asking)
        await held.reached.wait()
        row = await payments.row(asking.payment_id)
        assert (row["status"], row["method_token"], row["card_jwe"]) == ("requested", "pm_card_visa", None)
        held.let_go.set()
        captured = await events.next()
    assert kind(captured.type) == "PaymentCaptured"
    assert [(card.number, card.exp_month, card.exp_year) for card in gateway.cards] == [(NUMBER, 12, 2030)]
    for table in ("payments", "attempts", "outcomes", "outbox"):
        assert NUMBER not in str(await rows(payments.url, f"SELECT * FROM {table}"))


async def test_an_unreadable_card_is_never_charged(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway, keyset: Keyset
) -> None:
    _, private = generate_keyset()
    events, asking = await upstream.tap("payment.events"), with_card(keyset[0])
    async with start(keyring=CardKeyring.load(private)):
        await upstream.send(asking)
        refused = await events.next()
    assert (kind(refused.type), refused.data["reason"]) == ("PaymentNotCharged", CardRefusal.UNKNOWN_KEY.value)
    assert (await payments.row(asking.payment_id))["card_jwe"] is None
    assert gateway.calls == []
