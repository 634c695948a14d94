"""Request: charge this. An id means one payment for ever: a repetition gets the known outcome, another payment is a dead letter."""

from hashlib import sha256

import pytest

from services.payment_gateway.commands import PURGED_HASH, PaymentIdReusedError, Request, on_command
from services.payment_gateway.domain import Payment, PaymentStatus, PaymentTransition
from services.payment_gateway.gateways.port import ChargeDetails
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import ID, REQUEST, CommandScenario, decided, payment, stays

TOLD_AGAIN = stays(republish=True)
SAVED = replace(
    REQUEST,
    details=ChargeDetails("cus_1", "mandate_1", "Hosting in May", "HOSTING 05", (("contract", "C-7"), ("team", "web"))),
)
CARD = Request(ID, "INV-1", 1_250, "EUR", card_jwe="eyJ...")
CHARGED_BY_TOKEN = ("INV-1", "1250", "EUR", "pm_card_visa", "")
CLOSED = Payment(ID, "INV-1", PaymentStatus.NOT_CHARGED, reason="never_requested")
"""Closed by an earlier build, before its request came."""

SCENARIOS: dict[str, CommandScenario] = {
    "a payment is due at once": Scenario(
        None,
        REQUEST,
        PaymentTransition(
            Payment(
                ID, "INV-1", PaymentStatus.REQUESTED, 1, 1_250, "EUR", "pm_card_visa", params_hash=REQUEST.params_hash
            ),
            delay_s=0.0,
        ),
    ),
    "a payment with an encrypted card is due at once": Scenario(
        None,
        CARD,
        PaymentTransition(
            Payment(
                ID,
                "INV-1",
                PaymentStatus.REQUESTED,
                1,
                1_250,
                "EUR",
                card_jwe="eyJ...",
                params_hash=CARD.params_hash,
            ),
            delay_s=0.0,
        ),
    ),
    "a saved card goes with its customer, mandate and texts": Scenario(
        None,
        SAVED,
        PaymentTransition(
            Payment(
                ID,
                "INV-1",
                PaymentStatus.REQUESTED,
                1,
                1_250,
                "EUR",
                "pm_card_visa",
                params_hash=SAVED.params_hash,
                details=SAVED.details,
            ),
            delay_s=0.0,
        ),
    ),
    "one that was asked about before it came is never sent": Scenario(CLOSED, REQUEST, TOLD_AGAIN(CLOSED)),
    **{
        f"repeated while {status}: told again, nothing changes": Scenario(
            payment(status), REQUEST, TOLD_AGAIN(payment(status))
        )
        for status in PaymentStatus
    },
}


@each(SCENARIOS)
def test_request(scenario: CommandScenario) -> None:
    assert decided(scenario) == scenario.then


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, amount_minor=1),
        replace(REQUEST, currency="USD"),
        replace(REQUEST, invoice_id="INV-2"),
        replace(REQUEST, method_token="pm_card_mastercard"),
        CARD,
        replace(REQUEST, details=ChargeDetails(customer="cus_1")),
        replace(REQUEST, details=ChargeDetails(description="Hosting in June")),
        replace(REQUEST, details=ChargeDetails(metadata=(("contract", "C-8"),))),
    ],
    ids=["amount", "currency", "invoice", "token", "card", "customer", "description", "metadata"],
)
@pytest.mark.parametrize("status", PaymentStatus)
def test_a_payment_id_with_other_parameters_is_no_outcome(status: PaymentStatus, other: Request) -> None:
    with pytest.raises(PaymentIdReusedError, match="payment_id_reused"):
        on_command(payment(status), other)


@pytest.mark.parametrize("request_", [SAVED, CARD], ids=["saved card", "encrypted card"])
def test_a_request_that_comes_again_after_a_purge_is_known(request_: Request) -> None:
    purged = replace(payment(PaymentStatus.CAPTURED), params_hash=PURGED_HASH)
    assert on_command(purged, request_) == TOLD_AGAIN(purged)
    for other in ({"amount_minor": 1}, {"currency": "USD"}, {"invoice_id": "INV-2"}):
        with pytest.raises(PaymentIdReusedError):
            on_command(purged, replace(request_, **other))


@pytest.mark.parametrize(
    ("request_", "lines"),
    [
        (REQUEST, [*CHARGED_BY_TOKEN]),
        (CARD, ["INV-1", "1250", "EUR", "", "eyJ..."]),
        (SAVED, [*CHARGED_BY_TOKEN, "cus_1", "mandate_1", "Hosting in May", "HOSTING 05", "contract=C-7", "team=web"]),
        (replace(REQUEST, details=ChargeDetails(customer="cus_1")), [*CHARGED_BY_TOKEN, "cus_1", "", "", ""]),
        (replace(REQUEST, details=ChargeDetails(mandate="man_1")), [*CHARGED_BY_TOKEN, "", "man_1", "", ""]),
        (replace(REQUEST, details=ChargeDetails(description="May")), [*CHARGED_BY_TOKEN, "", "", "May", ""]),
        (replace(REQUEST, details=ChargeDetails(statement_descriptor="M")), [*CHARGED_BY_TOKEN, "", "", "", "M"]),
    ],
    ids=["token", "card", "all details", "customer", "mandate", "description", "statement descriptor"],
)
def test_a_request_has_the_same_hash_in_every_build(request_: Request, lines: list[str]) -> None:
    """Otherwise a request that came before an upgrade and comes again after it would be a dead letter."""
    assert request_.params_hash == sha256("\n".join(lines).encode()).digest()


@pytest.mark.parametrize(
    "details",
    [
        replace(SAVED.details, customer=None),
        replace(SAVED.details, mandate=None),
        replace(SAVED.details, description=None),
        replace(SAVED.details, statement_descriptor=None),
        replace(SAVED.details, metadata=()),
    ],
)
def test_every_detail_counts(details: ChargeDetails) -> None:
    without: Request = replace(SAVED, details=details)
    assert without.params_hash != SAVED.params_hash
