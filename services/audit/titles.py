"""The lines of FAULTS.md, in the words of its report."""

from services.audit.finding import Tally
from services.audit.stores import Stores

TITLES: dict[int, str] = {
    1: "Captured minus refunded is nothing or the amount; amount, currency and method are the invoice's; never two captures",
    2: "Every charge at the gateway has one payment here; every payment is over, has an open case or a next attempt",
    3: "Captured here means captured there; declined or not charged here means no capture there",
    4: "One gateway id was confirmed per payment, recorded before; one idempotency key always carried the same request",
    5: "An invoice is paid where its payment was captured, or a person decided with evidence; each payment ends once",
    6: "Every confirmed command has exactly one answer or one open dead letter",
    7: "Nothing from nowhere: every event and every step goes back to a command",
    8: "Streams run 1..n; folding the events gives the stored state; rebuilding changes nothing",
    9: "Nothing is left in an outbox or a queue; each event was seen by each queue bound to it, always with the same bytes",
    10: "What a queue was given was handled, is a dead letter or is still there; what people sent again or gave up is journalled",
    11: "Every dead letter has one record with reason, tries and status; no healthy message is among them",
    12: "One terminal state per saga; no deadline overdue on it; no illegal transition",
    13: "Captures minus refunds at the gateway equal what the paid invoices say",
    14: "Running recovery or replay a second time changed nothing",
    15: "No open transactions, leases or unacknowledged deliveries; connections and memory are back at their base line",
    16: "No card number, security code or key in tables, queues, the gateway's ledger or logs, encoded ones included",
    17: "Not vacuous: every planned fault fired; duplicates, redeliveries, doubts and conflicts were seen",
    18: "The checker can fail: every build with a planted fault turned its line red",
}


def tally(line: int, stores: Stores) -> Tally:
    """A count for the line, with its words and the patience of this run."""
    return Tally(line, TITLES[line], settled_before=stores.settled_before)


def needs(counted: Tally, stores: Stores, *names: str, ledger: bool = False) -> bool:
    """Whether all these databases (and the ledger) were given; what was not is noted as missing."""
    absent = [f"{name.upper()}_DATABASE_URL is not set" for name in names if name not in stores.databases]
    if ledger and stores.ledger is None:
        absent.append("no ledger given")
    for what in absent:
        counted.missing(what)
    return not absent
