"""The doctor's look at the card gateway, and the canary: an invoice of its own that is paid by the sandbox's or the test mode's card."""

import asyncio
import time
from typing import Final

from deploy.cli.output import CliError
from deploy.doctor.diagnosis import Diagnosis, broken, well
from services.audit.stores import snapshot
from shared.contracts.invoice import IssueInvoice, PayInvoice
from shared.ids import derived_id, new_id
from shared.observability.redaction import redact
from shared.settings import ConfigurationError

CANARY_WITHIN_S: Final = 30.0
"""A payment takes a tenth of a second; a gateway may take some seconds."""
CANARY_MINOR, CANARY_CURRENCY, CANARY_TOKEN = 100, "EUR", "pm_card_visa"
_POLL_S: Final = 0.1


async def look_at_gateway() -> Diagnosis:
    """Whether the gateway takes our key: one harmless request of each kind, as the service makes at its start."""
    from services.payment_gateway.gateways.port import Usable  # noqa: PLC0415 - the gateway's SDK takes half a second
    from services.payment_gateway.settings import GatewaySettings  # noqa: PLC0415

    do = "mend GATEWAY_URL, GATEWAY_API_KEY, its permissions or GATEWAY_MODE"
    try:
        gateway = GatewaySettings.read().charging.open_gateway()
    except ConfigurationError as error:
        return broken("gateway", str(error), do)
    try:
        answer = await gateway.check()
    finally:
        await gateway.close()
    if isinstance(answer, Usable):
        return well("gateway", "It takes our requests.")
    return broken("gateway", f"It does not take our requests: {redact(str(answer))[:200]}.", do)


async def fly_canary(rabbitmq_url: str, invoice_database_url: str) -> Diagnosis:
    """Issue an invoice of its own, pay it with a test card, and wait until it is paid.

    Its invoice stays in the books. A live gateway refuses the card, and charges nobody.
    """
    from deploy.cli.sender import send  # noqa: PLC0415 - the broker's client

    command_id, began = new_id(), time.monotonic()
    invoice_id = f"CANARY-{command_id}"
    payment_id = derived_id(command_id, "payment")
    issue = IssueInvoice(
        invoice_id=invoice_id, customer_id="remit-doctor", amount_minor=CANARY_MINOR, currency=CANARY_CURRENCY
    )
    pay = PayInvoice.model_validate(
        {
            "invoice_id": invoice_id,
            "payment_id": payment_id,
            "amount_minor": CANARY_MINOR,
            "currency": CANARY_CURRENCY,
            "method": {"kind": "token", "token": CANARY_TOKEN, "customer": None},
        }
    )
    do = f"remit invoice show {invoice_id}"
    for command, id_ in ((issue, command_id), (pay, derived_id(command_id, "pay"))):
        try:
            answer = await send(rabbitmq_url, command, id_, wait_s=CANARY_WITHIN_S)
        except CliError as error:
            return broken("canary", f"{error}", "give RABBITMQ_URL with a sender's user")
        if answer is None or answer.answer != "accepted":
            said = "got no answer" if answer is None else f"was {answer.answer}: {answer.reason}"
            return broken("canary", f"{type(command).__name__} {said}.", do)
    status = await _settled(invoice_database_url, invoice_id)
    took_s = time.monotonic() - began
    if status == "paid":
        return well("canary", f"{invoice_id} was issued and paid within {took_s:.1f} s.")
    return broken("canary", f"{invoice_id} is {status} after {took_s:.0f} s, not paid.", do)


async def _settled(url: str, invoice_id: str) -> str:
    """The invoice's status once its payment has ended, or when the canary's time is up."""
    give_up_at = time.monotonic() + CANARY_WITHIN_S
    status = "unknown"
    while True:
        async with snapshot("invoice", url) as database:
            status = str(await database.value("SELECT status FROM invoices WHERE invoice_id = $1", invoice_id))
        if status not in {"payment_pending", "in_doubt"} or time.monotonic() > give_up_at:
            return status
        await asyncio.sleep(_POLL_S)
