"""The books of this service, which are sealed: its outcomes as they were published, and the decisions of people."""

from shared.persistence.seals import Book, time_of

BOOKS = (
    Book(
        "outcomes",
        ("payment_id", "version"),
        (
            "payment_id",
            "version",
            "message_id",
            "exchange",
            "routing_key",
            "type",
            "correlation_id",
            "encode(sha256(body), 'hex')",
            time_of("recorded_at"),
        ),
    ),
    Book(
        "decisions",
        ("message_id",),
        (
            "message_id",
            "payment_id",
            "resolution",
            "expected_version",
            "receipt_number",
            "evidence",
            "decided_by",
            "reason",
            "refusal",
            time_of("decided_at"),
            "journal_head",
        ),
    ),
)
