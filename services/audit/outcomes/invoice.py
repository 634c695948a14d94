"""What a customer was told is what an outcome gave."""

from collections.abc import Iterator, Sequence

from services.audit.align import StoredRow
from services.audit.outcomes.said import SaidOutcome, failures


def of_invoice(event: StoredRow, outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    """The customer was told the reason that an outcome gave."""
    data, known = event["data"], failures(outcomes)
    if event["event"] == "PaymentFailed" and known:
        told = (data["outcome"], data["reason"], data.get("advice"))
        if told[0] in {failure[0] for failure in known} and told not in known:
            yield f"it was told that its payment was {told[0]} ({told[1]}), and no outcome says that"
