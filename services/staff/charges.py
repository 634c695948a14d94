"""Dead letters whose replay may charge a card, and which of them are old. Pure: no I/O, clock, randomness, logging.

Whoever sent an old command may have been paid otherwise since. So a person has to say that it still shall charge.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from services.staff.dead_letters import DeadLetter, DeadLetterRecord
from shared.contracts.catalogue import is_later_version, wire_name_without_version
from shared.contracts.currencies import in_major_units
from shared.contracts.invoice import InvoicePaymentRequested, PayInvoice
from shared.messaging.codec import Malformed, decode
from shared.messaging.envelope import Inbound
from shared.messaging.topology import COMMANDS
from shared.records import dataclass, replace

REQUESTS = "payment_gateway.requests"
"""The queue to which only the invoice service writes. What claims to be a request elsewhere may be anybody's."""
CHARGING: Mapping[str, type[PayInvoice | InvoicePaymentRequested]] = {
    COMMANDS: PayInvoice,
    REQUESTS: InvoicePaymentRequested,
}
"""The queues on which a message may charge a card, and the messages that do."""

OLD_AFTER = timedelta(days=1)
"""Most causes of dead letters are mended within a day, and most customers who were not charged notice later."""


@dataclass(frozen=True, slots=True)
class ReplayedCharge:
    """What a dead letter would charge if it were replayed. `since`: when it was sent, or first seen, if that was earlier.

    Of a later version of what charges nobody here can read what: only that it charges.
    """

    invoice_id: str | None
    amount_minor: int | None
    currency: str | None
    since: datetime

    @property
    def amount_text(self) -> str:
        """The amount with its currency, in words."""
        if self.amount_minor is None or self.currency is None:
            return "an amount that cannot be read here"
        return in_major_units(self.amount_minor, self.currency)

    def is_old(self, now: datetime, old_after: timedelta) -> bool:
        return now - self.since > old_after


def with_facts(letter: DeadLetter, read: Inbound | Malformed | None) -> DeadLetter:
    """The dead letter with what its body says. `read` is the message as it can be read; None if its body was not kept."""
    if not isinstance(read, Inbound):
        return replace(letter, may_charge=_is_later_charge(letter, read))
    data = read.data
    may_charge = isinstance(data, CHARGING.get(letter.queue, ()))
    return replace(
        letter,
        invoice_id=getattr(data, "invoice_id", None),
        payment_id=getattr(data, "payment_id", None),
        amount_minor=getattr(data, "amount_minor", None),
        currency=getattr(data, "currency", None),
        may_charge=may_charge,
        asked_at=read.sent_at if may_charge else None,
    )


def _is_later_charge(letter: DeadLetter, read: Malformed | None) -> bool:
    """Whether this is a later version of what charges: nobody can read it here, and after an upgrade its replay charges."""
    charging = CHARGING.get(letter.queue)
    if charging is None or read is None or read.type is None or not is_later_version(read.type):
        return False
    return wire_name_without_version(read.type) == wire_name_without_version(charging.wire_name)


def read_body(letter: DeadLetter) -> Inbound | Malformed | None:
    """The message as it would be read now. None if its body was not kept."""
    return (
        None if letter.body is None else decode(letter.body, content_type=letter.content_type, headers=letter.headers)
    )


def payment_of(letter: DeadLetter) -> UUID | None:
    """The payment that a dead letter is about. None if its body does not say, or cannot be read."""
    if letter.may_charge is not None:
        return letter.payment_id
    return with_facts(letter, read_body(letter)).payment_id


def charge_of(record: DeadLetterRecord) -> ReplayedCharge | None:
    """The charge that a replay of this dead letter may cause. None if it can cause none.

    It is told from the facts of the letter, from which previews of runs tell it as well.
    """
    letter = record.letter
    if letter.may_charge is None:
        letter = with_facts(letter, read_body(letter))
    if not letter.may_charge:
        return None
    since = min(letter.asked_at or record.first_seen, record.first_seen)
    return ReplayedCharge(letter.invoice_id, letter.amount_minor, letter.currency, since)
