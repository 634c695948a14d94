"""Every fault of the catalogue has its trial, or a reason why it has none."""

from tests.faults.catalogue import ROWS, Elsewhere, matching
from tests.faults.families import all_trials


def test_there_are_seventeen_rows() -> None:
    assert list(ROWS) == list(range(1, 18))


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
