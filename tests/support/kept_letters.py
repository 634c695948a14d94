"""Dead letters as the staff service keeps them, for tests of what people do with them."""

from uuid import UUID, uuid4

from services.staff import store
from services.staff.dead_letters import DeadLetter, arrive
from shared.clock import Clock, system_clock
from shared.contracts import invoice as messages
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.envelope import Cause, Draft
from shared.persistence.database import Database

QUEUE = "saga.events"


def event(number: int) -> DeadLetter:
    """A dead letter of an event that charges nobody."""
    body = f'{{"number": {number}}}'.encode()
    return DeadLetter(
        uuid4(),
        QUEUE,
        "remit",
        "handler_failed",
        error_type="KeyError",
        body=body,
        body_bytes=len(body),
        message_id=str(uuid4()),
        may_charge=False,
    )


def payment(invoice_id: str, amount_minor: int, clock: Clock = system_clock) -> DeadLetter:
    """A dead letter of a command that charges a card."""
    command = messages.PayInvoice(
        invoice_id=invoice_id,
        payment_id=uuid4(),
        amount_minor=amount_minor,
        currency="EUR",
        method=messages.TokenMethod(token="pm_card_visa"),
    )
    cause = Cause(uuid4(), "C-1", clock())
    sent = encode(Draft(command), cause, 0, source="/billing")
    return DeadLetter(
        uuid4(),
        "invoice.commands",
        "remit",
        "handler_failed",
        error_type="TypeError",
        body=sent.body,
        body_bytes=len(sent.body),
        content_type=STRUCTURED,
        message_id=str(sent.id),
        event_id=sent.id,
        type=command.wire_name,
        invoice_id=invoice_id,
        payment_id=command.payment_id,
        amount_minor=amount_minor,
        currency="EUR",
        may_charge=True,
        asked_at=cause.time,
    )


async def keep(database: Database, *letters: DeadLetter, clock: Clock = system_clock) -> list[UUID]:
    """Store dead letters as they arrive."""
    now = clock()
    async with database.transaction() as tx:
        await store.save_letters(tx, [arrive(None, letter, now) for letter in letters], locked=())
    return [letter.id for letter in letters]
