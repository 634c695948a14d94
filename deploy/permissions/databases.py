"""What each PostgreSQL role may do in each service's database: the one table, and the SQL that grants it.

Every table and view of a service stands in `GRANTS`, with what the service's own role may do. A migration that adds one has to add it
here, or a test fails. tests/service/permissions tries every role on every table, and every statement of a service under its role.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from deploy.permissions.passwords import postgresql_verifier
from shared.persistence.schema import needed_revision

Service = Literal["invoice", "payment_gateway", "saga", "staff"]
SERVICES: Final[tuple[Service, ...]] = get_args(Service)

AUDIT: Final = "remit_audit"
"""The role of `remit audit` and of the pages that only read. It reads every table of every service, and writes none."""
PURGE: Final = "remit_purge"
"""The role of `remit purge`: the only one that may change what is otherwise kept for ever. No service uses it."""

DOOR: Final = "door"
"""The role of the door, by which senders ask: it reads what they may be told, in the database of the invoice service."""
_GUESTS: Final[Mapping[Service, tuple[str, ...]]] = {"invoice": (DOOR,)}
"""Roles with a right in one service's database, beside those that every database has."""

_SERVICES_FOLDER: Final = Path(__file__).parents[2] / "services"


def owner(service: Service) -> str:
    """The role that owns a service's database and migrates it."""
    return f"{service}_owner"


def roles(service: Service) -> tuple[str, ...]:
    """Every role that may connect to a service's database."""
    return (owner(service), *users(service))


def users(service: Service) -> tuple[str, ...]:
    """Every role with a right to some table of a service's database, but for its owner, which has all of them."""
    return (service, AUDIT, PURGE, *_GUESTS.get(service, ()))


@dataclass(frozen=True, slots=True)
class Grant:
    """What the service's role, the purge and the door may do with a table, as SQL writes it. The audit may always SELECT."""

    service: str
    purge: str = ""
    door: str = ""

    def of(self, role: str) -> str:
        """What this role may do, of those that are not the owner."""
        return {AUDIT: "SELECT", PURGE: self.purge, DOOR: self.door}.get(role, self.service)


def _texts(*columns: str) -> str:
    """What a purge may do with a table: change its texts, and the hashes over them. Not ids, versions, amounts or times."""
    return f"SELECT, UPDATE ({', '.join(columns)})"


_APPENDED: Final = "SELECT, INSERT"
"""The books: a service adds to them, and changes and deletes nothing."""
_KEPT: Final = "SELECT, INSERT, UPDATE"
"""The state of something that is kept for ever."""
_SEALED: Final = {
    "seals": Grant(_APPENDED, purge="SELECT, UPDATE (salt, left_salt, left_digest)"),
    "seal_numbering": Grant("SELECT"),
}
"""Seals over the books. A trigger lets a purge only take away a salt, and say what it left."""
_AGED: Final = "SELECT, INSERT, DELETE"
"""Records of a service that it deletes once they are old."""
_EVERYWHERE: Final = {
    "alembic_version": Grant("SELECT", purge="SELECT", door="SELECT"),
    "inbox": Grant("SELECT, INSERT, DELETE"),
    "outbox": Grant(
        "SELECT, INSERT, UPDATE, DELETE",
        purge=_texts(
            "exchanges",
            "routing_keys",
            "types",
            "correlation_ids",
            "content_types",
            "headers",
            "bodies",
            "message_ids",
            "reply_tos",
            "lane",
        ),
    ),
    "outbox_messages": Grant("SELECT", purge="SELECT"),
}

GRANTS: Final[Mapping[Service, Mapping[str, Grant]]] = {
    "invoice": {
        **_EVERYWHERE,
        **_SEALED,
        "answers": Grant(
            _APPENDED,
            purge=_texts(
                "command_type",
                "content_hash",
                "outline_hash",
                "invoice_id",
                "answer",
                "reason",
                "detail",
                "correlation_id",
                "sender",
            ),
            door="SELECT (command_id, command_type, invoice_id, answer, reason, detail, sender)",
        ),
        "events": Grant(
            _APPENDED,
            purge=_texts("stream_id", "type", "data", "correlation_id", "traceparent", "owner"),
            door="SELECT",
        ),
        "invoices": Grant(
            _KEPT,
            purge=_texts("invoice_id", "status", "customer_id", "currency", "receipt_number", "refunds", "owner"),
            door="SELECT",
        ),
        # The method of payment pays, and is no business of whoever asks.
        "payments": Grant(
            _KEPT, purge=_texts("invoice_id", "method"), door="SELECT (payment_id, invoice_id, version, pending)"
        ),
        "refunds": Grant(_KEPT, purge=_texts("invoice_id")),
        "sender_tokens": Grant(
            "SELECT, INSERT, UPDATE (revoked_at)",
            purge=_texts("sender"),
            door="SELECT (sender, hash, ends_at, revoked_at)",
        ),
        "set_aside": Grant("SELECT, INSERT, UPDATE, DELETE", purge=_texts("reason"), door="SELECT"),
    },
    "payment_gateway": {
        **_EVERYWHERE,
        **_SEALED,
        "attempts": Grant(_AGED, purge=_texts("step", "answer", "evidence", "idempotency_key")),
        "decisions": Grant(
            _APPENDED,
            purge=_texts("resolution", "receipt_number", "evidence", "decided_by", "reason", "refusal", "journal_head"),
        ),
        # An outcome that is stored twice keeps its first bytes: `ON CONFLICT DO UPDATE` touches its version, and may touch nothing else.
        "outcomes": Grant(
            "SELECT, INSERT, UPDATE (version)",
            purge=_texts("exchange", "routing_key", "type", "correlation_id", "body"),
        ),
        "payments": Grant(
            _KEPT,
            purge=_texts(
                "invoice_id",
                "currency",
                "params_hash",
                "status",
                "method_token",
                "card_jwe",
                "gateway_id",
                "pending_status",
                "pending_reason",
                "pending_advice",
                "reason",
                "advice",
                "receipt_number",
                "refund_id",
                "decided_by",
                "correlation_id",
                "traceparent",
                "details",
                "settled_as",
                "gateway_side",
            ),
        ),
        "refunds": Grant(_KEPT, purge=_texts("reason", "status", "gateway_id", "decided_by", "asked_by")),
    },
    "saga": {
        **_EVERYWHERE,
        "deadlines": Grant("SELECT, INSERT, UPDATE, DELETE", purge=_texts("correlation_id")),
        "sagas": Grant(
            _KEPT,
            purge=_texts(
                "invoice_id",
                "status",
                "captured_currency",
                "receipt_number",
                "failure_outcome",
                "failure_reason",
                "failure_advice",
                "refund_reason",
                "refunds",
            ),
        ),
        "transitions": Grant(_AGED, purge=_texts("from_status", "to_status", "fact", "correlation_id")),
    },
    "staff": {
        **_EVERYWHERE,
        "cases": Grant(
            _KEPT,
            purge=_texts(
                "invoice_id",
                "correlation_id",
                "status",
                "reason",
                "decided_by",
                "currency",
                "gateway_id",
                "details",
                "claimed_by",
            ),
        ),
        "proposals": Grant(_KEPT, purge=_texts("asks", "proposed_by", "answered_by", "answer")),
        "second_person_limits": Grant("SELECT, INSERT, UPDATE, DELETE", purge="SELECT"),
        "dead_letters": Grant(
            _KEPT,
            purge=_texts(
                "queue",
                "reason",
                "error_type",
                "error_text",
                "exchange",
                "routing_key",
                "message_id",
                "type",
                "content_type",
                "correlation_id",
                "reply_to",
                "headers",
                "body",
                "withheld",
                "settled_by",
                "settled_reason",
                "sender",
                "grp",
                "invoice_id",
                "currency",
                "outcome_reason",
            ),
        ),
        # A trigger counts them, as the owner. Whoever changes letters locks the counts before.
        "dead_letter_groups": Grant("SELECT, UPDATE", purge=_texts("grp", "queue", "type", "reason", "error_type")),
        "replay_items": Grant("SELECT, INSERT, UPDATE, DELETE", purge=_texts("currency", "grp", "why")),
        "replay_runs": Grant(
            _KEPT,
            purge=_texts(
                "title",
                "filter",
                "bins",
                "made_by",
                "started_by",
                "started_via",
                "reason",
                "halted_how",
                "halted_why",
                "second_by",
            ),
        ),
        "commands": Grant("SELECT, INSERT, UPDATE, DELETE", purge=_texts("type", "invoice_id", "answer", "reason")),
        "instances": Grant("SELECT, INSERT, UPDATE, DELETE", purge=_texts("instance", "service", "state")),
        "invoices": Grant(
            "SELECT, INSERT, UPDATE, DELETE", purge=_texts("invoice_id", "customer_id", "currency", "status")
        ),
        # A function of the owner's deletes them by the week.
        "messages": Grant(_APPENDED, purge=_texts("invoice_id", "facts")),
        "payments": Grant(
            "SELECT, INSERT, UPDATE, DELETE",
            purge=_texts(
                "invoice_id", "currency", "status", "receipt_number", "reference_code", "gateway_id", "correlation_id"
            ),
        ),
        "queues": Grant("SELECT, INSERT, UPDATE", purge=_texts("name")),
        # A trigger lets a purge only take words out, and the salt.
        "journal": Grant(_APPENDED, purge=f"INSERT, {_texts('who', 'details', 'salt')}"),
        "people": Grant(_KEPT, purge=_texts("name", "login", "preferences")),
        "requests": Grant(_AGED, purge=_texts("who", "act", "result")),
        "sessions": Grant(f"{_AGED}, UPDATE", purge=_texts("kept")),
        "settings": Grant(_KEPT, purge=_texts("name", "value", "who")),
        "sign_ins": Grant(_AGED, purge=_texts("page")),
        "tokens": Grant(_KEPT, purge=_texts("name")),
        "journal_check": Grant(_KEPT, purge=_texts("broken_why")),
        "seals": Grant(_APPENDED, purge="SELECT"),
    },
}
"""Tables and views, by service. `payments` and `dead_letters` lose bodies and cards by UPDATE; no row of theirs is ever deleted."""

FUNCTIONS: Final[Mapping[Service, tuple[str, ...]]] = {
    "staff": ("journal_digest", "journal_hash", "keep_weeks_of_messages", "letter_group")
}
"""Functions that a service's role and the purge may run: a trigger runs them as whoever writes. PostgreSQL checks no right to the trigger's
own function."""


def roles_sql(service: Service, passwords: Mapping[str, str] | None = None) -> str:
    """Makes the roles of a service's database, without any right. Those that exist are left alone, but for a password in `passwords`.

    Needs a role that may create roles. Fails for a role that exists and may do what none of ours may.
    """
    statements = [_make_role(role) for role in roles(service)]
    statements += [
        f"ALTER ROLE {role} PASSWORD '{postgresql_verifier(passwords[role])}';"
        for role in roles(service)
        if passwords is not None
    ]
    statements += [_MAKE_MEMBER.format(role=role, predefined=predefined) for role, predefined in PREDEFINED.items()]
    return "\n".join(statements)


def grants_sql(service: Service) -> str:
    """Gives the database to its owner, and each role what it may do, taking whatever else it has. One transaction; it can be repeated.

    Fails if the database lacks a pre step. A table that is not there was dropped by a post step: the build before needed it until then.
    """
    everybody = ", ".join(("PUBLIC", *users(service)))
    lines = [
        "BEGIN;",
        _CHECK_MIGRATED.format(needed=needed_revision(_SERVICES_FOLDER / service / "migrations")),
        _OWN.format(owner=owner(service)),
        _CONNECT.format(roles=", ".join(roles(service)), public=everybody),
        f"REVOKE ALL ON SCHEMA public FROM {everybody};",
        f"GRANT USAGE ON SCHEMA public TO {', '.join(users(service))};",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {everybody};",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {everybody};",
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM {everybody};",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner(service)} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;",
    ]
    for table, grant in GRANTS[service].items():
        lines += [
            f"DO $$ BEGIN IF to_regclass('public.{table}') IS NOT NULL THEN",
            *(
                f"  GRANT {privileges} ON {table} TO {role};"
                for role in users(service)
                if (privileges := grant.of(role))
            ),
            "END IF; END $$;",
        ]
    lines += [f"GRANT EXECUTE ON FUNCTION {name} TO {service}, {PURGE};" for name in FUNCTIONS.get(service, ())]
    return "\n".join([*lines, "COMMIT;"])


def _make_role(role: str) -> str:
    return _MAKE_ROLE.format(role=role, predefined=PREDEFINED.get(role, ""))


_MAKE_ROLE: Final = """\
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
    CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
  ELSIF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}' AND (rolsuper
      OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls))
      OR EXISTS (SELECT FROM pg_auth_members WHERE member = '{role}'::regrole
      AND roleid::regrole::text <> '{predefined}') THEN
    RAISE EXCEPTION 'role {role} exists and may do more than it should';
  END IF;
END $$;"""

PREDEFINED: Final = {AUDIT: "pg_read_all_stats", PURGE: "pg_signal_backend"}
"""Roles of PostgreSQL's own that ours are members of. The audit looks for transactions that were left open, in every session. A purge ends
the sessions of the invoice service, which caches states. Where a hosted database does not let us grant that, the audit says what it could
not see, and the purge what it could not end."""

_MAKE_MEMBER: Final = """\
DO $$ BEGIN
  IF NOT pg_has_role('{role}', '{predefined}', 'MEMBER') THEN
    GRANT {predefined} TO {role};
  END IF;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE WARNING 'have {role} made a member of {predefined}';
END $$;"""

_CHECK_MIGRATED: Final = """\
DO $$ BEGIN
  IF (SELECT version_num FROM alembic_version) < '{needed}' THEN
    RAISE EXCEPTION 'this build needs revision {needed}: run `remit migrate` first';
  END IF;
END $$;"""

_OWN: Final = """\
DO $$ DECLARE
  ours name := '{owner}';
  one text;
BEGIN
  IF current_user <> ours
      AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    EXECUTE format('GRANT %I TO %I', ours, current_user);
  END IF;
  IF ours <> (SELECT pg_get_userbyid(datdba) FROM pg_database
      WHERE datname = current_database()) THEN
    EXECUTE format('ALTER DATABASE %I OWNER TO %I', current_database(), ours);
  END IF;
  FOR one IN
    SELECT format('TABLE %s', oid::regclass) FROM pg_class
      WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
        AND pg_get_userbyid(relowner) <> ours
    UNION ALL SELECT format('TABLE %s', oid::regclass) FROM pg_class
      WHERE relnamespace = to_regnamespace('weeks') AND relkind = 'r'
        AND pg_get_userbyid(relowner) <> ours
    UNION ALL SELECT format('SCHEMA %I', nspname) FROM pg_namespace
      WHERE nspname = 'weeks' AND pg_get_userbyid(nspowner) <> ours
    UNION ALL SELECT format('TYPE %s', reltype::regtype) FROM pg_class
      WHERE relnamespace = 'public'::regnamespace AND relkind = 'c'
        AND pg_get_userbyid(relowner) <> ours
    UNION ALL SELECT format('FUNCTION %s', oid::regprocedure) FROM pg_proc
      WHERE pronamespace = 'public'::regnamespace
        AND pg_get_userbyid(proowner) <> ours
  LOOP
    EXECUTE format('ALTER %s OWNER TO %I', one, ours);
  END LOOP;
END $$;"""
"""A database that was migrated by another role changes hands. A sequence of a column follows its table. In `weeks` are partitions."""

_CONNECT: Final = """\
DO $$ BEGIN
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM {public}', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO {roles}', current_database());
END $$;"""
