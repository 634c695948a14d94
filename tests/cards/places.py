"""Where card data is looked for: one function a place, which says whether a text is stopped, or left unshown, there."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from deploy.cli import sender
from services.audit.secrets import secret_in
from services.payment_gateway.domain import MASKED_CODE, code_of
from services.payment_gateway.gateways.evidence import evidence
from services.staff import intake
from services.staff.actions import results
from shared.card_data.scan import CARD_DATA_ENCODED, CARD_PLACEHOLDER, CVV_PLACEHOLDER
from shared.contracts.invoice import VoidInvoice
from shared.ids import new_id
from shared.messaging.codec import STRUCTURED, Malformed, decode
from shared.messaging.consumer import Delivery
from shared.observability.redaction import redact

ID = "0190a5c4-0000-7000-8000-000000000001"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def body_with(value: Any, name: str = "note") -> bytes:
    """A healthy command that has one more member."""
    data = {"invoice_id": "INV-1", "reason": "issued twice", name: value}
    event = {"specversion": "1.0", "id": ID, "type": "remit.invoice.VoidInvoice.v1", "source": "/billing", "data": data}
    return json.dumps(event, ensure_ascii=False).encode()


def at_the_border(value: Any, name: str = "note") -> bool:
    return _refused_for_card_data(decode(body_with(value, name), content_type=STRUCTURED))


def in_a_header(value: Any, name: str = "note") -> bool:
    return _refused_for_card_data(decode(body_with("x"), content_type=STRUCTURED, headers={name: value}))


def in_staffs_texts(value: Any, name: str = "note") -> bool:
    refused = results.unfit(reason=_said(value, name))
    return refused is not None and refused.refusal is results.ActionRefusal.CARD_DATA


def at_the_command_line(value: Any, name: str = "note") -> bool:
    """By the look of `remit`, before it publishes."""
    command = VoidInvoice.model_construct(invoice_id="INV-1", reason=_said(value, name))
    return _refused_for_card_data(decode(sender._body(command, new_id()), content_type=STRUCTURED))


def in_a_gateways_answers(value: Any, name: str = "note") -> bool:
    said = _said(value, name)
    return _is_taken_out(evidence(said)) and code_of(said) == MASKED_CODE


def in_dead_letters(value: Any, name: str = "note") -> bool:
    delivery = Delivery(
        body=body_with(value, name),
        tag=1,
        generation=1,
        queue="dead-letters",
        exchange="",
        routing_key="invoice.commands",
        content_type=STRUCTURED,
        message_id=ID,
        correlation_id=None,
        reply_to=None,
        type=None,
        headers={"x-death": [{"queue": "invoice.commands", "reason": "delivery_limit", "count": 1}]},
    )
    return intake.read(delivery).body is None


def in_logs(value: Any, name: str = "note") -> bool:
    return _is_taken_out(redact(_said(value, name)))


def in_the_audit(value: Any, name: str = "note") -> bool:
    return (secret_in(_said(value, name)) or "").startswith(("a card number", "a card security code"))


PLACES: dict[str, Callable[..., bool]] = {
    "border": at_the_border,
    "staff": in_staffs_texts,
    "CLI": at_the_command_line,
    "gateway": in_a_gateways_answers,
    "dead letters": in_dead_letters,
    "logs": in_logs,
    "audit": in_the_audit,
}


def in_an_id(text: str) -> bool:
    return _refused_for_card_data(decode(body_with("x").replace(ID.encode(), _escaped(text)), content_type=STRUCTURED))


def _escaped(text: str) -> bytes:
    """As it stands within quotes in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


AROUND: dict[str, Callable[[str], bool]] = {
    "header": in_a_header,
    "header's name": lambda text: in_a_header("x", text),
    "header of bytes": lambda text: in_a_header(text.encode()),
    "table in a header": lambda text: in_a_header({"deep": [{"deeper": text}]}),
    "member's name": lambda text: at_the_border("x", text),
    "id": in_an_id,
}
"""Where else of a message it may stand; for what must be caught."""


def _said(value: Any, name: str) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if name == "note" else f"{name}: {text}"


def _is_taken_out(shown: str) -> bool:
    return CARD_PLACEHOLDER in shown or CVV_PLACEHOLDER in shown or shown == CARD_DATA_ENCODED


def _refused_for_card_data(decoded: object) -> bool:
    return isinstance(decoded, Malformed) and decoded.reason.is_card_data
