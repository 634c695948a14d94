"""The metrics that operators watch, named as Prometheus asks: names with units, counters that end in `_total`.

Labels take values from closed lists only (queue names, reason codes, answer types), never ids or free text. So a label can neither have
unlimited values nor carry a card number. All metrics are in the default registry of the process.

Counters and histograms tell what this process did. A `SampledGauge` tells what the database of the service holds, and only a service that
reads it shows it.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.observability.sampled import SampledGauge

# From a single message on an idle broker (2 ms) to the statement timeout.
_BATCH_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a sandbox on this machine to the longest timeout of a gateway call.
_GATEWAY_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# From a payment without load (20 ms) to the end of the ladder (8 h).
_PAYMENT_SECONDS: Final = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    3_600.0,
    14_400.0,
    43_200.0,
)
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
BATCH_RETRIES: Final = Counter(
    "remit_batch_retries_total",
    "Batches that were tried again, by why: conflict (a concurrent writer was first), outage, error.",
    ["queue", "cause"],
)
DEAD_LETTERS: Final = Counter(
    "remit_dead_letters_total", "Messages dead-lettered, by the queue they came from and why.", ["queue", "reason"]
)

DEAD_LETTERS_OPEN: Final = SampledGauge(
    "remit_dead_letters_open", "Dead letters that nobody has replayed or discarded, by why they failed.", ["reason"]
)
DEAD_LETTERS_OLDEST: Final = SampledGauge(
    "remit_dead_letters_oldest_seconds", "Age of the oldest open dead letter, by why it failed.", ["reason"]
)
DEAD_LETTERS_UNREADABLE: Final = SampledGauge(
    "remit_dead_letters_unreadable",
    "Messages in `dead-letters.unreadable`: they ended the staff service's connection whenever the broker delivered them.",
)

# -- the staff desk ----------------------------------------------------------------------------------------------------

DESK_REQUESTS: Final = Counter(
    "remit_desk_requests_total",
    "Requests to the staff desk, by type (page, act, api, live, static) and what became of them (done, refused, failed).",
    ["type", "outcome"],
)
DESK_REQUEST_SECONDS: Final = Histogram(
    "remit_desk_request_seconds",
    "From a request to the beginning of its answer, by type.",
    ["type"],
    buckets=_BATCH_SECONDS,
)
DESK_LIVE_BROWSERS: Final = Gauge(
    "remit_desk_live_browsers", "Pages of browsers that get live numbers from this process."
)

# -- the door ----------------------------------------------------------------------------------------------------------

DOOR_REQUESTS: Final = Counter(
    "remit_door_requests_total",
    "Requests of senders to the door, by type (command, payment, invoice, other) and what became of them (told, unknown, "
    "refused, failed).",
    ["type", "outcome"],
)
DOOR_REQUEST_SECONDS: Final = Histogram(
    "remit_door_request_seconds",
    "From a request to the door to the beginning of its answer, without the time that a sender asked to wait, by type.",
    ["type"],
    buckets=_BATCH_SECONDS,
)
DOOR_WAITING: Final = Gauge("remit_door_waiting", "Requests of senders that wait at the door of this process.")

# -- publishing --------------------------------------------------------------------------------------------------------

MESSAGES_COMMITTED: Final = Counter(
    "remit_messages_committed_total", "Messages that a commit of this process brought about, by type.", ["type"]
)
MESSAGES_PUBLISHED: Final = Counter(
    "remit_messages_published_total", "Messages that the broker has confirmed, by lane.", ["lane"]
)
PUBLISH_SECONDS: Final = Histogram(
    "remit_publish_seconds", "From publishing a batch to its last confirm.", ["lane"], buckets=_BATCH_SECONDS
)
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
OUTBOX_MESSAGES: Final = SampledGauge(
    "remit_outbox_messages", "Messages in the outbox that wait for a confirm of the broker, by lane.", ["lane"]
)
OUTBOX_OLDEST: Final = SampledGauge(
    "remit_outbox_oldest_seconds", "Age of the oldest message in the outbox that still waits, by lane.", ["lane"]
)
OUTBOX_QUARANTINED: Final = SampledGauge(
    "remit_outbox_quarantined",
    "Outbox batches that end the connection at each try, by lane. They wait for a person.",
    ["lane"],
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
GATEWAY_PACE: Final = SampledGauge(
    "remit_gateway_pace",
    "The pace of this instance's calls to the card gateway, as a part of its setting: 1 unless it said 429.",
)
PAYMENTS_DUE: Final = SampledGauge("remit_payments_due", "Payments whose next attempt is due and not yet claimed.")
PAYMENTS_DUE_OLDEST: Final = SampledGauge(
    "remit_payments_due_oldest_seconds", "How long the attempt that is due longest has not been claimed."
)
PAYMENTS_IN_DOUBT: Final = SampledGauge(
    "remit_payments_in_doubt",
    "Payments of which nobody knows what became of the money, or that wait for a person, by state.",
    ["state"],
)
MONEY_IN_DOUBT: Final = SampledGauge(
    "remit_money_in_doubt",
    "The money of these payments, by state, in the main unit of its currency (euro, not cent).",
    ["state", "currency"],
)
MONEY_IN_DOUBT_OLDEST: Final = SampledGauge(
    "remit_money_in_doubt_oldest_seconds",
    "How long the oldest of these payments has been in this state.",
    ["state", "currency"],
)
CHARGE_SECONDS: Final = Histogram(
    "remit_charge_seconds",
    "From the request of a payment to its outcome at the gateway, by outcome.",
    ["outcome"],
    buckets=_PAYMENT_SECONDS,
)
PAYMENT_SECONDS: Final = Histogram(
    "remit_payment_seconds",
    "From PayInvoice to the outcome on the invoice, of payments that began and ended on this instance, by outcome.",
    ["outcome"],
    buckets=_PAYMENT_SECONDS,
)
LATE_CAPTURES: Final = Counter("remit_late_captures_total", "Captures found on a payment that was settled otherwise.")
CONTRADICTIONS: Final = Counter(
    "remit_contradictions_total", "Settled payments of which the gateway says something else: each is a case."
)
SAGAS: Final = SampledGauge("remit_sagas", "Sagas that have not ended, by state.", ["state"])
SAGAS_OLDEST: Final = SampledGauge(
    "remit_sagas_oldest_seconds", "How long the oldest of these sagas has been in this state.", ["state"]
)
SAGA_DEADLINES: Final = Counter("remit_saga_deadlines_total", "Saga deadlines that fired, by state.", ["state"])
CASES_OPEN: Final = SampledGauge("remit_cases_open", "Cases that are open, by state and reason.", ["state", "reason"])
CASES_OLDEST: Final = SampledGauge(
    "remit_cases_oldest_seconds", "Since when the oldest of these cases has been known.", ["state", "reason"]
)

JOURNAL_INTACT: Final = SampledGauge(
    "remit_journal_intact", "1 while the journal still has the head that this instance has logged, else 0."
)

# -- the process -------------------------------------------------------------------------------------------------------

BUILD_INFO: Final = Gauge("remit_build_info", "1, for the build that runs.", ["version", "revision"])
READY: Final = Gauge("remit_ready", "1 while the component is usable, else 0.", ["component"])
BACKGROUND_FAILURES: Final = Counter(
    "remit_background_failures_total",
    "Runs of a background task that failed and are tried again, by task (outbox_sweeper, lease_claimer, ...).",
    ["task"],
)
