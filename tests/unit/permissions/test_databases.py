"""Every table of the schema snapshots has a decision for each role."""

import re

import pytest

from deploy.local.snapshot import path_of
from deploy.permissions.databases import GRANTS, PURGE, SERVICES, Service, grants_sql, roles, roles_sql


@pytest.mark.parametrize("service", SERVICES)
def test_every_table_and_view_of_the_schema_has_a_decision(service: Service) -> None:
    schema = set(
        re.findall(r"^(?:TABLE|VIEW|SEQUENCE|MATERIALIZED VIEW) (\w+)", path_of(service).read_text(), re.MULTILINE)
    )
    assert schema | {"alembic_version"} <= GRANTS[service].keys(), (
        "say in deploy/permissions/databases.py what each role may do with it"
    )


def test_the_books_are_only_added_to() -> None:
    books = {"events", "answers", "decisions", "journal"}
    granted = {name: grant.service for tables in GRANTS.values() for name, grant in tables.items()}
    assert {granted[name] for name in books} == {"SELECT, INSERT"}
    granted |= {name: grant.service for service in SERVICES[:3] for name, grant in GRANTS[service].items()}
    # Staff's own `invoices` and `payments` are copies for a year.
    kept = {"invoices", "payments", "outcomes", "sagas", "cases", "dead_letters"}
    assert not {name for name in kept | books if "DELETE" in granted[name]}


def test_nobody_but_a_service_inserts_or_deletes_except_that_a_purge_is_journalled() -> None:
    inserts = {name for tables in GRANTS.values() for name, grant in tables.items() if "INSERT" in grant.of(PURGE)}
    assert inserts == {"journal"}
    assert not {name for tables in GRANTS.values() for name, grant in tables.items() if "DELETE" in grant.of(PURGE)}


def test_a_purge_changes_named_columns_alone() -> None:
    """A column that a migration adds is not among them by itself."""
    purges = [grant.purge for tables in GRANTS.values() for grant in tables.values()]
    assert not [purge for purge in purges if re.search(r"UPDATE(?! \()", purge)]
    changed = set(re.findall(r"\w+", " ".join(re.findall(r"UPDATE \(([^)]*)\)", " ".join(purges)))))
    assert changed.isdisjoint(
        {"version", "amount_minor", "captured_minor", "payment_id", "command_id", "expected_version"}
    )


@pytest.mark.parametrize("service", SERVICES)
def test_no_password_stands_in_the_sql(service: Service) -> None:
    made = roles_sql(service, {role: f"secret-of-{role}" for role in roles(service)}) + grants_sql(service)
    assert made.count("PASSWORD 'SCRAM-SHA-256$4096:") == len(roles(service))
    assert "secret" not in made
