"""The books of this service, which are sealed: the events of its invoices, and its answers to commands."""

from shared.persistence.seals import Book, time_of

BOOKS = (
    Book(
        "events",
        ("stream_id", "version"),
        (
            "stream_id",
            "version",
            "type",
            "data",
            "cause_id",
            "cause_position",
            "correlation_id",
            "traceparent",
            time_of("recorded_at"),
            "owner",
        ),
    ),
    Book(
        "answers",
        ("command_id",),
        (
            "command_id",
            "command_type",
            "invoice_id",
            "answer",
            "reason",
            "detail",
            "correlation_id",
            time_of("answered_at"),
            "sender",
            "sent_id",
        ),
    ),
)
