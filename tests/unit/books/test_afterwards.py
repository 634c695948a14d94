"""The table of what the gateway may say after an outcome equals the code."""

from typing import Final

import pytest

from services.payment_gateway.afterwards import meaning_of
from services.payment_gateway.domain import GatewayAnswer, PaymentStatus
from services.payment_gateway.gateways.port import Dispute
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus
from shared.records import replace
from tests.unit.books.documents import SERVICES, code_spans, name_of, table
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    ALL_REFUNDED,
    CANCELLED,
    CAPTURED,
    DECLINED,
    DISPUTED,
    ID,
    NO_REFUND,
    NOT_FOUND,
    NOT_SENT,
    OF_SOMETHING_ELSE,
    PARTLY_REFUNDED,
    PROCESSING,
    REFUND_FAILED,
    REFUND_PENDING,
    REFUNDED,
    UNCONFIRMED,
    UNKNOWN,
    payment,
)

SAID: Final[dict[str, tuple[GatewayAnswer, ...]]] = {
    "captured, as we asked for": (CAPTURED,),
    "captured, another amount or currency": tuple(OF_SOMETHING_ELSE.values()),
    "captured, and more given back than we did": (PARTLY_REFUNDED, ALL_REFUNDED),
    "captured, and less given back than we did": (CAPTURED,),
    "captured, and disputed": (DISPUTED, replace(DISPUTED, dispute=Dispute("needs_response"))),
    "captured, and a dispute was lost": (replace(DISPUTED, dispute=Dispute("lost"), lost_minor=500),),
    "cancelled": (CANCELLED,),
    "declined, unconfirmed, or the customer has to act": (DECLINED, UNCONFIRMED, ACTION_REQUIRED),
    "processing, no answer": (PROCESSING, NOT_SENT, UNKNOWN),
    "unknown to it": (NOT_FOUND,),
    "refunded": (REFUNDED,),
    "given back, and disputed all the same": (replace(REFUNDED, charge=DISPUTED),),
    "given back, and not all of it": (replace(REFUNDED, charge=PARTLY_REFUNDED),),
    "a refund failed, or is not there": (REFUND_FAILED, NO_REFUND),
    "a refund failed, or is not there, and nothing is left": (
        replace(REFUND_FAILED, left_minor=0),
        replace(NO_REFUND, left_minor=0),
    ),
    "a refund is pending, no answer": (REFUND_PENDING, NOT_SENT, UNKNOWN),
}
PART: Final = PaymentRefund(ID, "damaged", 250, PaymentRefundStatus.REFUNDED, 250)
TOLD: Final = table(SERVICES, "the gateway says later")
STATUSES: Final = [PaymentStatus(code) for column in TOLD.header[1:] for code in code_spans(column)]


def test_the_table_has_every_settled_status_and_every_answer() -> None:
    assert TOLD.column("the gateway says later") == list(SAID)
    assert set(STATUSES) == {
        PaymentStatus.CAPTURED,
        PaymentStatus.DECLINED,
        PaymentStatus.NOT_CHARGED,
        PaymentStatus.REFUNDED,
        PaymentStatus.REFUND_FAILED,
    }


@pytest.mark.parametrize("row", TOLD.rows, ids=lambda row: row[0])
def test_what_the_gateway_says_later_means_what_the_table_says(row: tuple[str, ...]) -> None:
    said, *cells = row
    for column, cell in zip(TOLD.header[1:], cells, strict=True):
        for status in map(PaymentStatus, code_spans(column)):
            settled = payment(status, decided_by="ann" if status is PaymentStatus.REFUND_FAILED else None)
            if "less" in said:
                settled = replace(settled, refunds=(PART,))
            meanings = {meaning_of(answer, settled).value for answer in SAID[said]}
            assert not cell or meanings == {cell}, f"{name_of(SERVICES)}: {said}, {status}: {sorted(meanings)}"
