"""What an SQLSTATE means: one table, and a test of each class. What speaks of connection, session or server is never a message's fault."""

from collections.abc import Iterator

import asyncpg
import pytest

from shared.persistence.database import TROUBLE_OF_STATE, Trouble, ends_session, trouble

AWAY = (
    *(
        "03000",
        "08000",
        "08003",
        "08006",
        "08P01",
        "0A001",
        "24000",
        "25001",
        "25006",
        "25P02",
        "25P03",
        "26000",
        "2D000",
        "34000",
    ),
    *(
        "3B001",
        "40003",
        "42P03",
        "42P05",
        "53000",
        "53100",
        "53200",
        "53300",
        "55000",
        "55P02",
        "57000",
        "57014",
        "57P01",
        "57P02",
    ),
    *("57P03", "57P04", "57P05", "58000", "58030", "72000", "HV000", "XX000", "XX001", "XX002"),
)
MISTAKE = ("28000", "28P01", "2BP01", "3D000", "3F000", "42501", "42601", "42703", "42P01", "F0000")
CONFLICT = ("0A000", "23505", "40001", "40P01", "40002", "55006", "55P03")
DATA = ("22001", "22003", "22021", "22P02", "22P05", "23502", "23503", "23514", "23P01", "54000", "54001")
BUG = ("21000", "09000", "0P000", "2F005", "38000", "39P01", "44000", "P0001")
ALL = {Trouble.AWAY: AWAY, Trouble.MISTAKE: MISTAKE, Trouble.CONFLICT: CONFLICT, Trouble.DATA: DATA, Trouble.BUG: BUG}


def error(state: str) -> asyncpg.PostgresError:
    """An error as asyncpg makes it of the server's answer."""
    made = asyncpg.PostgresError.new({"C": state, "M": "a text", "S": "ERROR"})
    assert isinstance(made, asyncpg.PostgresError)
    return made


@pytest.mark.parametrize(("state", "means"), [(state, means) for means, states in ALL.items() for state in states])
def test_a_state_means(state: str, means: Trouble) -> None:
    assert trouble(error(state)) is means


def test_every_class_of_the_table_is_tested() -> None:
    tested = {state for states in ALL.values() for state in states}
    untested = {row for row in TROUBLE_OF_STATE if not any(state.startswith(row) for state in tested)}
    assert not untested


def _known(kind: type[BaseException]) -> Iterator[str]:
    for one in kind.__subclasses__():
        yield from _known(one)
        if state := getattr(one, "sqlstate", None):
            yield str(state)


def test_every_class_that_the_driver_knows_was_thought_of() -> None:
    """A class that is in neither list would be called a bug, and would cost healthy messages."""
    notes = {"00", "01", "02"}  # success, warnings, no data: no errors
    bugs = {
        "09",
        "0B",
        "0F",
        "0L",
        "0P",
        "0Z",
        "10",
        "20",
        "27",
        "2F",
        "38",
        "39",
        "44",
        "P0",
    }  # of our own statements and functions
    known = {state[:2] for state in _known(asyncpg.PostgresError)}
    assert known - {row[:2] for row in TROUBLE_OF_STATE} - notes == bugs


@pytest.mark.parametrize("state", ["08006", "25006", "25P02", "26000", "42P05", "57P01", "58030", "XX000"])
def test_a_session_is_closed_after_an_error_that_speaks_of_it(state: str) -> None:
    assert ends_session(error(state))


@pytest.mark.parametrize("state", ["23505", "40001", "42501", "57014", "55P03", "0A000", "22001"])
def test_a_session_outlives_an_error_of_a_statement(state: str) -> None:
    assert not ends_session(error(state))


@pytest.mark.parametrize(
    "gone", [ConnectionResetError(), OSError("no route"), TimeoutError(), asyncpg.InterfaceError("closed")], ids=repr
)
def test_an_error_of_the_network_is_an_outage(gone: Exception) -> None:
    assert trouble(gone) is Trouble.AWAY
