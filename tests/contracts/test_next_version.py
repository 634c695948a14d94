"""A worked example: `VoidInvoice.v2` beside `VoidInvoice.v1`. The new version wants a code instead of a text.

CONTRIBUTING, "Change a message", names the places; here each of them is seen to work. The class below is what would stand in
shared/contracts/invoice.py.
"""

import copy
import json
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import pytest

from deploy.contract import compatibility, released
from services.invoice import domain, handlers
from services.invoice.store import Loaded
from shared.contracts import catalogue, invoice, schemas
from shared.contracts.base import Code, known
from shared.messaging.codec import STRUCTURED, Malformed, MalformedReason, decode
from shared.messaging.envelope import Inbound


class VoidReason(StrEnum):
    MISTAKE = "mistake"
    RETURNED = "returned"


class VoidInvoiceV2(invoice.UpstreamCommand):
    """Void an invoice that nobody paid."""

    wire_name: ClassVar[str] = "remit.invoice.VoidInvoice.v2"
    code: Annotated[Code, known(VoidReason)]


def _void_v2(message: VoidInvoiceV2, _: Loaded) -> domain.Command:
    return domain.Void(message.code)


V1, V2 = invoice.VoidInvoice.wire_name, VoidInvoiceV2.wire_name
EVENT: dict[str, Any] = schemas.golden_of(invoice.VoidInvoice)[0]["body"]
OF_V2 = EVENT | {"type": V2, "data": {"invoice_id": "INV-2026-0001", "code": "mistake"}}


def read(event: dict[str, Any]) -> Inbound | Malformed:
    return decode(json.dumps(event).encode(), content_type=STRUCTURED)


@pytest.fixture
def next_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build that has both versions. The catalogue finds a class by itself; here it is told."""
    monkeypatch.setitem(catalogue.BY_WIRE_NAME, V2, VoidInvoiceV2)
    monkeypatch.setitem(catalogue._LATEST, "remit.invoice.VoidInvoice", 2)


def test_the_build_before_keeps_a_later_version_for_the_next_build() -> None:
    """It waits as a dead letter: it is no mistake of the sender, who may have been told that the next build is there."""
    got = read(OF_V2)
    assert isinstance(got, Malformed)
    assert (got.reason, got.reason.is_permanent) == (MalformedReason.UNKNOWN_VERSION, False)


@pytest.mark.usefixtures("next_build")
def test_the_next_build_takes_both_versions_as_the_same_command() -> None:
    old, new = read(EVENT), read(OF_V2)
    assert isinstance(old, Inbound)
    assert isinstance(new, Inbound)
    assert isinstance(new.data, VoidInvoiceV2)
    loaded = Loaded(domain.Invoice("INV-2026-0001"), set())
    routed = {type(handlers.ROUTES[type(old.data)](old.data, loaded)), type(_void_v2(new.data, loaded))}
    assert routed == {domain.Void}


@pytest.mark.usefixtures("next_build")
@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        ("remit.invoice.VoidInvoice.v3", MalformedReason.UNKNOWN_VERSION),
        ("remit.invoice.VoidInvoise.v2", MalformedReason.UNKNOWN_TYPE),
    ],
)
def test_what_is_later_still_waits_and_what_is_misspelt_is_answered(type_: str, reason: MalformedReason) -> None:
    got = read(OF_V2 | {"type": type_})
    assert isinstance(got, Malformed)
    assert got.reason is reason


def test_the_new_version_breaks_nothing_and_the_old_one_in_its_form_would() -> None:
    number = released.latest()
    now, document = released.schemas_of(number), released.document_of(number)
    of_v2 = schemas.schema(VoidInvoiceV2)
    assert compatibility.broken_by(now | {V2: of_v2}, document, number) == []
    changed = copy.deepcopy(of_v2)
    changed["properties"]["type"]["const"] = V1
    changed["$defs"]["VoidInvoice"] = changed["$defs"].pop("VoidInvoiceV2")
    changed["properties"]["data"]["$ref"] = "#/$defs/VoidInvoice"
    assert compatibility.broken_by(now | {V1: changed}, document, number) == [
        f"{V1}: data.code: what was allowed is refused now: a message without it",
        f"{V1}: data.reason: was listed, and is no more: it would be ignored, or never come again, without a word",
    ]
