"""Says decisions again whose effect does not show: the message, its effect, or what tells of the effect may have been lost.

The decision goes out again with the same id and bytes, so the payment-gateway service takes it once. Beside it goes a question: if the
decision was taken before, the answer shows what became of the payment.
"""

from datetime import datetime

import structlog

from services.staff import store
from services.staff.domain import SentDecision
from services.staff.store import JournalEntry, KeptCase
from shared.clock import Clock
from shared.contracts.payment_gateway import InquirePayment, ResolvePayment
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.records import replace

log = structlog.get_logger(__name__)

SOURCE = "staff"
REPEATED_MAX = 100
"""Decisions in one transaction. People make far fewer."""


def decision_message(entry: JournalEntry, journal_head: str | None, correlation_id: str) -> Outgoing:
    """The message of the decision that a journal entry tells of. It is the same each time, byte for byte."""
    told = ResolvePayment.model_validate(
        {**entry.details, "payment_id": entry.subject, "decided_by": entry.who, "journal_head": journal_head}
    )
    return encode(Draft(told), Cause(entry.id, correlation_id, entry.at), 0, source=SOURCE)


class DecisionRepeater:
    """Says decisions again, ever more rarely, until the case shows an effect or a refusal."""

    name = "decision_repeater"
    interval_s = 10.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, relay: Relay, clock: Clock) -> None:
        self._database = database
        self._relay = relay
        self._clock = clock

    async def run_once(self) -> float:
        """Say again what is due. The rest follows at once if there is more than one run takes."""
        return 0.0 if await self.repeat(self._clock()) == REPEATED_MAX else self.interval_s

    async def repeat(self, now: datetime) -> int:
        """Say again what is due at `now`. Returns how many decisions that are."""
        async with self._database.transaction() as tx:
            unheeded = [
                (kept, coming)
                for kept in await store.lock_unheeded(tx, now, at_most=REPEATED_MAX)
                if (coming := kept.case.decision_on_its_way) is not None
            ]
            if not unheeded:
                return 0
            entries = await store.resolutions(tx, [kept.case.payment_id for kept, _ in unheeded])
            messages = [m for kept, coming in unheeded for m in _again(kept, coming, *entries[kept.case.payment_id])]
            again = [
                (replace(kept.case, decision=coming.said_again(now)), kept.correlation_id) for kept, coming in unheeded
            ]
            await store.save_cases(tx, again, now, locked={case.payment_id for case, _ in again})
            outbox_batches = await outbox.insert_again(tx, messages)
        await self._relay.publish(outbox_batches)
        log.warning("decisions_said_again", decisions=len(unheeded))
        return len(unheeded)


def _again(kept: KeptCase, coming: SentDecision, entry: JournalEntry, journal_head: str) -> list[Outgoing]:
    inquiry = InquirePayment(invoice_id=kept.case.invoice_id, payment_id=kept.case.payment_id)
    cause = Cause(entry.id, kept.correlation_id, entry.at)
    return [
        decision_message(entry, journal_head, kept.correlation_id),
        encode(Draft(inquiry), cause, f"inquiry:{coming.times}", source=SOURCE),
    ]
