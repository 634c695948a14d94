"""The metrics that operators watch, named as Prometheus asks: names with units, counters that end in `_total`.

Labels take values from closed lists only (queue names, reason codes, answer types), never ids or free text. So a label can neither have
unlimited values nor carry a card number. All metrics are in the default registry of the process.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# From a single message on an idle broker (2 ms) to the statement timeout.
_BATCH_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a sandbox on this machine to the longest timeout of a gateway call.
_GATEWAY_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCH_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)

# -- messages ----------------------------------------------------------------------------------------------------------

MESSAGES_HANDLED: Final = Counter(
    "remit_messages_handled_total",
    "Messages taken from a queue, by what became of them (handled, duplicate, postponed).",
    ["queue", "outcome"],
)
BATCH_SIZE: Final = Histogram(
    "remit_batch_size", "Messages in one batch transaction.", ["queue"], buckets=_BATCH_SIZES
)  # fmt: skip
BATCH_SECONDS: Final = Histogram(
    "remit_batch_seconds", "From taking a batch to its acknowledgement.", ["queue"], buckets=_BATCH_SECONDS
)
REDELIVERIES: Final = Counter(
    "remit_redeliveries_total",
    "Messages that the broker delivered again, because a crash or a lost connection kept them from being acknowledged.",
    ["queue"],
)
CONFLICTS: Final = Counter(
    "remit_batch_conflicts_total", "Batches repeated because a concurrent writer was first.", ["queue"]
)
DEAD_LETTERS: Final = Counter(
    "remit_dead_letters_total", "Messages dead-lettered, by the queue they came from and why.", ["queue", "reason"]
)

DEAD_LETTERS_UNREADABLE: Final = Gauge(
    "remit_dead_letters_unreadable",
    "Messages in `dead-letters.unreadable`: they ended the staff service's connection whenever the broker delivered them.",
)

# -- publishing --------------------------------------------------------------------------------------------------------

PUBLISH_FAILURES: Final = Counter(
    "remit_publish_failures_total",
    "Publishes without a confirm, by reason (unroutable, or the type of the error). The outbox keeps them.",
    ["reason"],
)
OUTBOX_SWEPT: Final = Counter(
    "remit_outbox_swept_total",
    "Messages that the sweeper published, because a crash or a failed publish had left them in the outbox.",
)
ANSWERS_UNROUTABLE: Final = Counter(
    "remit_answers_unroutable_total",
    "Answers that were dropped because their `reply_to` no longer exists. The stored answer remains.",
)

ANSWERS_DROPPED: Final = Counter(
    "remit_answers_dropped_total",
    "Answers that were dropped because their queue stayed full or they ended the connection. The stored answer remains.",
)
PUBLIC_COPIES_REFUSED: Final = Counter(
    "remit_public_copies_refused_total",
    "Public copies of events that were refused, because a queue of others takes none, by exchange. They are repeated.",
    ["exchange"],
)
PUBLIC_COPIES_SLOW: Final = Counter(
    "remit_public_copies_slow_total",
    "Rests of the public lane, because the broker took long over public copies: over what others have bound.",
)
PUBLIC_COPIES_WAITING: Final = Gauge(
    "remit_public_copies_waiting",
    "Public copies of events in the outbox, because others refused them or made them slow.",
)
OUTBOX_QUARANTINED: Final = Gauge(
    "remit_outbox_quarantined", "Messages in the outbox that end the connection at each try. They wait for a person."
)

# -- payments ----------------------------------------------------------------------------------------------------------

GATEWAY_CALLS: Final = Counter(
    "remit_gateway_calls_total",
    "Calls to the card gateway, by step (tokenise, prepare, ..., inquire_refund) and type of answer.",
    ["step", "answer"],
)
GATEWAY_CALL_SECONDS: Final = Histogram(
    "remit_gateway_call_seconds", "One call to the card gateway.", ["step"], buckets=_GATEWAY_SECONDS
)
WEBHOOKS: Final = Counter(
    "remit_webhooks_total",
    "Events that the gateway sent to the webhook, by what became of them (looked, nothing_new, foreign, forged, too_large, busy, away).",
    ["outcome"],
)
GATEWAY_PACE: Final = Gauge(
    "remit_gateway_pace",
    "The pace of this instance's calls to the card gateway, as a part of its setting: 1 unless it said 429.",
)
PAYMENTS_DUE: Final = Gauge("remit_payments_due", "Payments whose next attempt is due and not yet claimed.")
PAYMENTS_IN_DOUBT: Final = Gauge(
    "remit_payments_in_doubt", "Payments for which nobody knows yet whether the card was charged: money at risk."
)
PAYMENTS_NEEDING_DECISION: Final = Gauge(
    "remit_payments_needing_decision", "Payments that wait for a person: their ladder of inquiries is exhausted."
)
LATE_CAPTURES: Final = Counter("remit_late_captures_total", "Captures found on a payment that was settled otherwise.")
SAGA_DEADLINES: Final = Counter("remit_saga_deadlines_total", "Saga deadlines that fired, by state.", ["state"])

# -- the process -------------------------------------------------------------------------------------------------------

READY: Final = Gauge("remit_ready", "1 while the component is usable, else 0.", ["component"])
BACKGROUND_FAILURES: Final = Counter(
    "remit_background_failures_total",
    "Runs of a background task that failed and are tried again, by task (outbox_sweeper, lease_claimer, ...).",
    ["task"],
)
