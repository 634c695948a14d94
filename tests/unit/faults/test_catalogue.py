"""Every fault of the catalogue has its trial, or a reason why it has none."""

from shared.messaging.topology import QUEUES
from tests.faults.catalogue import ROWS, Elsewhere, matching
from tests.faults.deadly import UNREADABLE
from tests.faults.families import all_trials


def test_no_row_is_left_out() -> None:
    assert list(ROWS) == list(range(1, 22))


def test_every_fault_has_a_trial_or_a_reason() -> None:
    names = [trial.name for trial in all_trials()]
    for number, row in ROWS.items():
        for fault, where in row.faults.items():
            if isinstance(where, Elsewhere):
                assert where.why
                continue
            for pattern in where.split(","):
                assert matching(pattern, names), f"row {number}, {fault}: no trial is called {pattern}"


def test_no_partition_is_left_out() -> None:
    """Row 17: each service with each server that it uses, in one direction, in the other, and cut."""
    names = {trial.name for trial in all_trials()}
    lines = [
        f"{service}.{server}"
        for service in ("invoice", "payment_gateway", "saga", "staff")
        for server in ("broker", "database")
    ]
    for line in [*lines, "payment_gateway.gateway"]:
        for fault in (
            "black_hole_to_server",
            "black_hole_to_client",
            "refused",
            "reset",
            "half_closed",
            "late",
            "drip",
        ):
            assert f"network/{line}:{fault}" in names


def test_every_trial_of_strangers_belongs_to_row_18() -> None:
    names = {trial.name for trial in all_trials() if trial.family == "hostile"}
    patterns = [where for where in ROWS[18].faults.values() if isinstance(where, str)]
    assert {name for pattern in patterns for name in matching(pattern, names)} == names


def test_what_we_receive_ends_the_connection_on_every_queue() -> None:
    """Row 18: each queue that a service of ours consumes, but for those that drop what is too much for them."""
    names = {trial.name for trial in all_trials()}
    consumed = {queue.name for queue in QUEUES if not queue.is_optional} - {UNREADABLE}
    assert {f"hostile/received:{queue}" for queue in consumed} <= names
