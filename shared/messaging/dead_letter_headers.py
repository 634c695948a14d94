"""The headers of a dead letter: why a message was dead-lettered, and what it was before. Services write them, staff reads them."""

from shared.messaging.consumer import Delivery

REASON = "x-remit-reason"
ERROR_TYPE = "x-remit-error-type"
ERROR_TEXT = "x-remit-error-text"
QUEUE = "x-remit-queue"
EXCHANGE = "x-remit-exchange"
ROUTING_KEY = "x-remit-routing-key"
TRIES = "x-remit-tries"
FAILED_AT = "x-remit-failed-at"
MESSAGE_ID = "x-remit-message-id"
REPLY_TO = "x-remit-reply-to"
CORRELATION_ID = "x-remit-correlation-id"
MESSAGE_TYPE = "x-remit-type"
CONTENT_TYPE = "x-remit-content-type"
BODY_WITHHELD = "x-remit-body-withheld"
BODY_BYTES = "x-remit-body-bytes"
"""The length of the message's body, also if it was withheld."""
REPLAYS = "x-remit-replays"
"""How often staff replayed the message. A service copies it onto a further dead letter, so that staff recognises an old duplicate."""

WITHHELD_CARD_DATA = "card_data"
WITHHELD_TOO_LARGE = "too_large"
WITHHELD_NOT_TEXT = "not_text"
"""Compressed, or in another encoding than UTF-8: nobody can say that no card number is in it."""


def replays(delivery: Delivery) -> int:
    """How often staff replayed the message of this delivery. 0 if the header is missing or not a plausible number."""
    count = delivery.headers.get(REPLAYS, 0)
    return count if isinstance(count, int) and 0 <= count < 2**31 else 0
