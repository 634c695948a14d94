"""Says decisions again whose effect does not show: the message, its effect, or what tells of the effect may have been lost.

The decision goes out again with the same id and bytes, so the payment-gateway service takes it once. Beside it goes a question: if the
decision was taken before, the answer shows what became of the payment.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import structlog
from pydantic import ValidationError

from services.staff import store
from services.staff.actions import results
from services.staff.domain import Case
from services.staff.store import JournalEntry
from shared.clock import Clock
from shared.contracts.mistakes import mistakes
from shared.contracts.payment_gateway import InquirePayment, ResolvePayment
from shared.ids import derived_id
from shared.messaging.envelope import Outgoing
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.records import replace

log = structlog.get_logger(__name__)

REPEATED_MAX = 100
"""Decisions in one transaction. People make far fewer."""


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
            unheeded = await store.lock_unheeded(tx, now, at_most=REPEATED_MAX)
            if not unheeded:
                return 0
            coming = {case.decision.id: case for case in unheeded if case.decision is not None}
            sent = await store.sent_decisions(tx, [case.payment_id for case in unheeded])
            messages = [m for decision in sent for m in _again(*decision, coming)]
            again = [replace(case, decision=case.decision and case.decision.said_again(now)) for case in unheeded]
            await store.note_repeated(tx, again)
            outbox_batches = await outbox.insert_again(tx, messages)
        await self._relay.publish(outbox_batches)
        log.warning("decisions_said_again", decisions=len(unheeded))
        return len(unheeded)


def _again(entry: JournalEntry, head: str, correlation_id: str, coming: Mapping[UUID, Case]) -> list[Outgoing]:
    """The decision of a journal entry as it was sent, byte for byte, and the question; nothing if it is not one that is to come."""
    case = coming.get(derived_id(entry.id, 0))
    if case is None or case.decision is None:
        return []  # an earlier decision about the same payment
    inquiry = InquirePayment(invoice_id=case.invoice_id, payment_id=case.payment_id)
    again = [results.message_of(inquiry, entry, correlation_id, f"inquiry:{case.decision.times}")]
    try:
        told = ResolvePayment.model_validate(
            {**entry.details, "payment_id": entry.subject, "decided_by": entry.who, "journal_head": head}
        )
    except ValidationError as error:  # a purge may have taken texts out; a person can decide anew
        log.error("decision_unsayable", entry=str(entry.id), problem=mistakes(error))  # noqa: TRY400 - it would show the texts
        return again
    return [results.message_of(told, entry, correlation_id), *again]
