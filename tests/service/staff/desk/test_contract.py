"""The page about what others send and hear: open to whoever reaches the desk, and all of it there."""

import json

import pytest

from services.staff.desk import contract
from shared.contracts.catalogue import PUBLIC_COMMANDS
from shared.contracts.invoice import AnswerReason
from shared.persistence.database import Database
from tests.support.desk_browser import DeskUnderTest

HEARD = {"remit.invoice.InvoicePaid.v1", "remit.payment_gateway.PaymentCaptured.v1", "remit.staff.JournalSealed.v1"}


async def test_whoever_is_not_signed_in_reads_every_message(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no request for it reaches the database."""
    monkeypatch.delattr(Database, "connection")
    browser = await desk.browser()
    page = await browser.open(contract.ADDRESS)
    assert (page.status, page.address) == (200, contract.ADDRESS)
    assert set(page.ids) >= PUBLIC_COMMANDS | HEARD
    assert len(page.ids) == len(set(page.ids))
    assert not [reason for reason in AnswerReason if reason not in page.text]
    assert "data.method.details.statement_descriptor" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
    assert "<script" not in page.html
    document = await browser.open(f"{contract.ADDRESS}/asyncapi.json")
    assert json.loads(document.html) == json.loads(contract.DOCUMENT.read_bytes())


def test_alone_in_a_file_it_needs_nothing_else() -> None:
    page = contract.page(json.loads(contract.DOCUMENT.read_bytes()), styles="body { color: red; }")
    assert "<style>body { color: red; }</style>" in page
    assert 'href="/' not in page
    assert "<link" not in page
    assert "src=" not in page


def test_a_member_is_shown_by_what_it_must_be() -> None:
    document = json.loads(contract.DOCUMENT.read_bytes())
    payload = document["components"]["messages"]["PayInvoice.v1"]["payload"]
    parts = document["components"]["schemas"]
    shown = list(contract._members(contract._resolved(payload, parts), parts, ""))
    members = {one.path: one for one in shown}
    told = {
        path: members[path].must
        for path in ("id", "data.amount_minor", "data.method.token", "data.method.details.metadata")
    }
    assert told == {
        "id": "UUID",
        "data.amount_minor": "whole number, from 1 to 999 999 999 999",
        "data.method.token": "text, from 3 to 255 characters",
        "data.method.details.metadata": "object, up to 20 entries or null",
    }
    assert [one.values for one in shown if one.path == "data.method.kind"] == [("token",), ("encrypted_card",)]
    assert not members["data.method.customer"].is_required
