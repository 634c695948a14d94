"""The headers of a dead letter: why a message was dead-lettered, and what it was before. Services write them, staff reads them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from shared.ids import read_uuid

if TYPE_CHECKING:
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
REPLAY_ID = "x-remit-replay-id"
"""Which replay of staff this is. Who handles the message tells staff what became of it. Nobody else knows the id."""

SENDER = "x-remit-sender"
"""The name of the sender of a message that staff replayed: only the staff service's user may say it."""
ADDED_BY_REPLAY = frozenset({REPLAYS, REPLAY_ID, SENDER})
USER = "x-remit-user"
"""The name of the user who published the message that became a dead letter."""

WITHHELD_CARD_DATA = "card_data"
WITHHELD_TOO_LARGE = "too_large"
WITHHELD_NOT_TEXT = "not_text"
"""Compressed, or in another encoding than UTF-8: nobody can say that no card number is in it."""


def said_sender(headers: Mapping[str, Any]) -> str | None:
    """The name of the sender as the headers say it. Anybody can write there."""
    name = headers.get(SENDER)
    return name if isinstance(name, str) and name else None


def sender_of(user: str | None, said: str | None, *, staff_user: str | None) -> str | None:
    """The name of a message's sender. `user` published it: that is its sender, or staff, who have said for whom they replay it."""
    return said if user is not None and user == staff_user else user


def replays(delivery: "Delivery") -> int:
    """How often staff replayed the message of this delivery. 0 if the header is missing or not a plausible number."""
    count = delivery.headers.get(REPLAYS, 0)
    return count if isinstance(count, int) and 0 <= count < 2**31 else 0


def replay_id(delivery: "Delivery") -> UUID | None:
    """Which replay of staff this delivery is; None if it is none, or none that staff want to hear of."""
    return read_uuid(delivery.headers.get(REPLAY_ID)) if delivery.headers else None
