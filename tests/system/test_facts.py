"""The way of one payment can be read from the logs of all services, by its id or by its correlation id."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from deploy.demo.upstream import Upstream
from deploy.local.stack import SERVICES, UPSTREAM
from deploy.local.system import System
from shared.contracts.invoice import IssueInvoice, PayInvoice, TokenMethod
from shared.ids import new_id
from tests.support.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

OUTCOME_WITHIN_S = 60.0


async def pay(system: System, invoice_id: str, payment_id: UUID, token: str) -> str | None:
    """Issue an invoice and pay it with this token. Returns the outcome."""
    async with Upstream.open(system.stack.rabbitmq_url_of(UPSTREAM), name="facts", history=system.history) as upstream:
        await upstream.ask(IssueInvoice(invoice_id=invoice_id, customer_id="C-1", amount_minor=1_250, currency="EUR"))
        await upstream.ask(
            PayInvoice(
                invoice_id=invoice_id,
                payment_id=payment_id,
                amount_minor=1_250,
                currency="EUR",
                method=TokenMethod(token=token),
            )
        )
        return await upstream.outcome(payment_id, within_s=OUTCOME_WITHIN_S)


def grep(system: System, text: str) -> list[dict[str, Any]]:
    """The facts in all logs whose line has this text, in the order of their times, as `grep -h ... | sort` gives them."""
    found = [
        line
        for service in SERVICES
        for path in system.folder.glob(f"{service}*.log")
        for line in path.read_text(errors="replace").splitlines()
        if text in line and '"logger":"facts"' in line
    ]
    return [json.loads(line) for line in sorted(found)]


@pytest.mark.parametrize(
    ("token", "way"),
    [
        ("pm_card_visa", [("invoice", "requested"), ("payment_gateway", "captured"), ("invoice", "settled")]),
        (
            "pm_remit_charged_then_timeout",
            [
                ("invoice", "requested"),
                ("payment_gateway", "in_doubt"),
                ("invoice", "flagged_in_doubt"),
                ("payment_gateway", "captured"),
                ("invoice", "settled"),
            ],
        ),
        (
            "pm_card_visa_chargeDeclined",
            [("invoice", "requested"), ("payment_gateway", "declined"), ("invoice", "settled_as_failed")],
        ),
    ],
    ids=["paid", "in doubt, then paid", "declined"],
)
def test_the_way_of_a_payment_can_be_grepped_over_all_services(
    system: System, token: str, way: list[tuple[str, str]]
) -> None:
    invoice_id, payment_id = f"FACTS-{new_id()}", new_id()
    assert asyncio.run(pay(system, invoice_id, payment_id, token)) is not None

    async def told() -> list[dict[str, Any]] | None:
        facts = grep(system, str(payment_id))
        # Each service writes its own: the line of an earlier fact may come later.
        return facts if len(facts) >= len(way) and facts[-1]["event"] == way[-1][1] else None

    facts = asyncio.run(until(told, what="all facts"))
    assert facts is not None
    assert sorted((fact["service"], fact["event"]) for fact in facts) == sorted(way)
    assert [fact["event"] for fact in facts if fact["service"] == "invoice"] == [
        event for service, event in way if service == "invoice"
    ]
    assert {fact["invoice_id"] for fact in facts} == {invoice_id}
    (correlation_id,) = {fact["correlation_id"] for fact in facts}
    thread = [fact["event"] for fact in grep(system, correlation_id)]
    assert {"answered", *(event for _, event in way)} <= set(thread), "the answer has the correlation id, too"
