"""A message that cannot be handled, as it leaves for `dead-letters`: the body as it came, and headers that say why.

The broker's own dead-lettering (`x-death`, delivery limit) arrives on the same queue with none of our headers; staff reads both.
"""

from hashlib import sha256
from uuid import UUID

from shared.card_data.effort import Effort
from shared.card_data.plain import is_text
from shared.card_data.scan import has_card_data
from shared.clock import Clock
from shared.ids import derived_id, read_uuid
from shared.messaging import dead_letter_headers
from shared.messaging.codec import BODY_BYTES_MAX, attribute_of, headers_too_large
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Outgoing
from shared.messaging.failures import (
    MOVED_BACK,
    MessageFailure,
    fits,
    read_moved_back,
    short,
    string,
)
from shared.messaging.topology import DEAD_LETTERS, work_queue_of
from shared.observability.logs import redact
from shared.records import replace

TYPE = "remit.DeadLetter.v1"
TEXT_LENGTH_MAX = 1_000
NAMESPACE = UUID("6f0f4b3c-2f9e-5a51-9a43-0d2a7f1c6b10")


def dead_letter(
    delivery: Delivery, *, reason: str, error: BaseException | None, text: str, clock: Clock, tries: int
) -> Outgoing:
    """The delivery as a dead letter. Card data and oversized bodies are withheld; every text is redacted. Of an oversized body, which was
    dropped as it came, the dead letter names the size."""
    failure = MessageFailure(
        message=replace(delivery, queue=work_queue_of(delivery.queue)),
        by_service=True,
        reason=reason,
        error_type=type(error).__name__ if error is not None else "",
        error_text=text,
        tries=tries,
        failed_at=clock(),
        withheld=_withheld(delivery),
        body_bytes=delivery.body_bytes,
        replays=dead_letter_headers.replays(delivery),
        said_sender=dead_letter_headers.said_sender(delivery.headers),
    )
    return _letter(failure, _id(failure))


def set_aside_again(delivery: Delivery, clock: Clock) -> Outgoing:
    """A dead letter that came to a work queue, as the dead letter that it was: of the same message, with the same reason and tries.

    It is scanned and redacted anew, since a sender could have made it up. Its `x-death` stays behind: in another queue it would hurt the
    broker again.
    """
    failure = read_moved_back(delivery)
    failure = replace(
        failure,
        reason=MOVED_BACK if failure.reason == "unknown" else failure.reason,
        tries=max(failure.tries, 1),
        failed_at=failure.failed_at or clock(),
        withheld=_claimed_withheld(failure.withheld) or _withheld(failure.message),
    )
    own_id = read_uuid(delivery.message_id) if failure.by_service and failure.withheld else None
    return _letter(failure, own_id or _id(failure))


def _letter(failure: MessageFailure, id_: UUID) -> Outgoing:
    delivery, withheld = failure.message, failure.withheld
    headers: dict[str, str | int] = {
        dead_letter_headers.REASON: failure.reason,
        dead_letter_headers.ERROR_TYPE: short(failure.error_type),
        dead_letter_headers.ERROR_TEXT: redact(failure.error_text, max_characters=TEXT_LENGTH_MAX),
        dead_letter_headers.QUEUE: delivery.queue,
        dead_letter_headers.EXCHANGE: short(delivery.exchange),
        dead_letter_headers.ROUTING_KEY: short(delivery.routing_key),
        dead_letter_headers.TRIES: failure.tries,
        dead_letter_headers.FAILED_AT: failure.failed_at.isoformat() if failure.failed_at else "",
        dead_letter_headers.BODY_WITHHELD: withheld,
        dead_letter_headers.BODY_BYTES: failure.body_bytes,
        dead_letter_headers.REPLAYS: failure.replays,
    }
    # What the sender wrote into properties is scanned like its body: any of them could hold a card number.
    for header, value in (
        (dead_letter_headers.MESSAGE_ID, delivery.message_id),
        (dead_letter_headers.REPLY_TO, delivery.reply_to),
        (dead_letter_headers.CORRELATION_ID, delivery.correlation_id),
        (dead_letter_headers.MESSAGE_TYPE, delivery.type),
        (dead_letter_headers.CONTENT_TYPE, delivery.content_type),
        (dead_letter_headers.USER, delivery.user_id),
        (dead_letter_headers.SENDER, failure.said_sender),
    ):
        if value:
            headers[header] = short(value)
    headers |= _ce_headers(delivery)
    return Outgoing(
        id=id_,
        exchange=DEAD_LETTERS,
        routing_key=delivery.queue,
        type=TYPE,
        correlation_id=str(headers.get(dead_letter_headers.CORRELATION_ID, "")),
        body=b"" if withheld else delivery.body,
        headers=headers,
        content_type="application/octet-stream",
    )


def stripped(letter: Outgoing) -> Outgoing:
    """The same dead letter with nothing of the message but where it failed and why: what can always be published."""
    kept = {
        name: letter.headers[name]
        for name in (
            dead_letter_headers.REASON,
            dead_letter_headers.QUEUE,
            dead_letter_headers.TRIES,
            dead_letter_headers.FAILED_AT,
            dead_letter_headers.BODY_BYTES,
            dead_letter_headers.REPLAYS,
        )
        if name in letter.headers  # a row of the build before says less
    }
    return replace(
        letter,
        body=b"",
        correlation_id="",
        headers=kept | {dead_letter_headers.BODY_WITHHELD: dead_letter_headers.WITHHELD_TOO_LARGE},
    )


def _id(failure: MessageFailure) -> UUID:
    """The same delivery set aside twice (a crash between confirm and ack) is the same dead letter; set aside again after a replay is
    another one, and so are two bodies under one message id. A withheld body gives no hash, and a masked text none of what it was: a card
    number could be found from it."""
    message = failure.message
    body = f"tag {message.tag}" if failure.withheld else sha256(message.body).hexdigest()
    message_id = message.message_id and short(message.message_id)
    told = f"{message.queue}\n{message_id}\n{body}\n{failure.replays}"
    if message.user_id is not None:  # two senders may say the same under the same id
        told += f"\n{message.user_id}\n{failure.said_sender and short(failure.said_sender)}"
    return derived_id(NAMESPACE, told)


def _without_nul(text: str) -> str:
    """The text with each NUL made visible, since no database takes one. Nothing else is changed: it is to be sent again."""
    return text.replace("\0", r"\x00")


def _withheld(delivery: Delivery) -> str:
    if delivery.body_bytes > BODY_BYTES_MAX:
        return dead_letter_headers.WITHHELD_TOO_LARGE
    if not is_text(delivery.body):
        return dead_letter_headers.WITHHELD_NOT_TEXT
    return dead_letter_headers.WITHHELD_CARD_DATA if has_card_data(delivery.body) else ""


def _claimed_withheld(why: str) -> str:
    """Why a service withheld the body. What is no such reason is taken for the gravest: nobody can say what the body was."""
    known = {"", dead_letter_headers.WITHHELD_TOO_LARGE, dead_letter_headers.WITHHELD_NOT_TEXT}
    return why if why in known else dead_letter_headers.WITHHELD_CARD_DATA


def _ce_headers(delivery: Delivery) -> dict[str, str | int]:
    """CloudEvents attributes of a binary-mode message: without them it could not be replayed.

    Of more headers than are taken none is kept: such a message is refused anyway, a dead letter can always be published, and a thousand
    headers took 0.2 s to look through for card data. All are paid for together, as at the border.
    """
    if headers_too_large(delivery.headers):
        return {}
    kept: dict[str, str | int] = {}
    effort = Effort()
    for name, value in delivery.headers.items():
        key, text = _without_nul(name), _without_nul(string(value))
        if attribute_of(key) is None or not fits(key) or not fits(text):
            continue
        if not has_card_data(f"{key}: {text}", effort):
            kept[key] = text
    return kept
