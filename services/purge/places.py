"""Where texts of others are kept: the tables of each service.

Their columns are read from the catalogue, so a column that a migration adds is looked at without a change here.
"""

from shared.records import dataclass


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table. `key`: the columns that name a row. `whole`: the column with the invoice whose rows are changed in one transaction."""

    table: str
    key: tuple[str, ...]
    whole: str | None = None


OUTBOX = TextTable("outbox", ("id",))
PLACES: dict[str, tuple[TextTable, ...]] = {
    "payment_gateway": (
        TextTable("payments", ("payment_id",)),
        TextTable("refunds", ("payment_id", "refund_id")),
        TextTable("attempts", ("payment_id", "fence", "seq")),
        TextTable("outcomes", ("payment_id", "version")),
        TextTable("decisions", ("message_id",)),
        TextTable("seals", ("number",)),
        OUTBOX,
    ),
    "saga": (
        TextTable("sagas", ("payment_id",)),
        TextTable("transitions", ("payment_id", "version")),
        TextTable("deadlines", ("id",)),
        OUTBOX,
    ),
    "staff": (
        TextTable("dead_letters", ("id",)),
        TextTable("dead_letter_groups", ("grp",)),
        TextTable("replay_runs", ("no",)),
        TextTable("replay_items", ("run_no", "position")),
        TextTable("cases", ("payment_id",)),
        TextTable("proposals", ("id",)),
        TextTable("journal", ("id",)),
        TextTable("messages", ("id", "at")),
        TextTable("invoices", ("invoice_id",)),
        TextTable("payments", ("payment_id",)),
        TextTable("commands", ("command_id",)),
        TextTable("instances", ("instance",)),
        TextTable("queues", ("name",)),
        TextTable("people", ("id",)),
        TextTable("tokens", ("id",)),
        TextTable("sessions", ("hash",)),
        TextTable("sign_ins", ("state",)),
        TextTable("requests", ("once",)),
        TextTable("settings", ("name",)),
        TextTable("second_person_limits", ("currency",)),
        TextTable("journal_check", ("only_row",)),
        OUTBOX,
    ),
    "invoice": (
        TextTable("events", ("stream_id", "version"), whole="stream_id"),
        TextTable("invoices", ("invoice_id",), whole="invoice_id"),
        TextTable("payments", ("payment_id",), whole="invoice_id"),
        TextTable("refunds", ("invoice_id", "refund_id"), whole="invoice_id"),
        TextTable("answers", ("command_id",), whole="invoice_id"),
        TextTable("set_aside", ("command_id",)),
        TextTable("sender_tokens", ("id",)),
        TextTable("seals", ("number",)),
        OUTBOX,
    ),
}
"""In the order of the purge. The invoice service comes last: until then its events say which invoice gets which new name."""

HASHES = frozenset({"content_hash", "outline_hash", "params_hash", "salt"})
"""Columns of bytes that are no texts by their nature, so that nothing has to be withheld. What else holds bytes is a body."""
CHAIN = frozenset(
    {
        ("journal", "digest"),
        ("journal", "hash"),
        ("journal_check", "hash"),
        ("journal_check", "head"),
        ("seals", "digest"),
        ("seals", "hash"),
    }
)
"""Columns that the database computes and nobody can change, and copies of them. Without the salt they give nothing away."""
CREDENTIALS = frozenset(
    {
        ("people", "password"),
        ("tokens", "hash"),
        ("sender_tokens", "hash"),
        ("sessions", "hash"),
        ("sign_ins", "state"),
        ("sign_ins", "nonce"),
        ("sign_ins", "verifier"),
    }
)
"""Columns with random values, hashes over such, and what argon2 made of a password with a random salt. No text of anybody can be read
there, and whoever changed one would lock somebody out, or let somebody in."""
RESEALED = frozenset({("seals", "salt"), ("seals", "left_salt"), ("seals", "left_digest")})
"""What a purge changes of a seal whose rows it has changed: random values, and a digest over what it left."""
NO_TEXTS = CHAIN | CREDENTIALS | RESEALED
"""Columns in which a purge looks for nothing. Of these it may change only what it seals again."""
