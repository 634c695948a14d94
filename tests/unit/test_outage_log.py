"""An outage is told where it begins, changes and ends; what stands is told once a minute."""

import structlog
from structlog.testing import capture_logs

from shared.outage_log import STANDING_INTERVAL_S, OnceAMinute, OutageLog

REFUSED, LATE = ConnectionRefusedError("nobody listens"), TimeoutError()


def test_an_outage_is_told_where_it_begins_changes_and_ends() -> None:
    outage = OutageLog(structlog.get_logger(), "away", "back", waiting="q")
    with capture_logs() as logged:
        outage.succeeded()
        for error in (REFUSED, REFUSED, LATE, LATE):
            outage.failed(error, messages=1)
        outage.succeeded()
        outage.succeeded()
        outage.failed(LATE, is_mistake=True)
    told = [(one["event"], one["log_level"], one.get("error"), one.get("failures")) for one in logged]
    assert told == [
        ("away", "warning", "ConnectionRefusedError: nobody listens", None),
        ("away", "warning", "TimeoutError", None),
        ("back", "info", None, 4),
        ("away", "error", "TimeoutError", None),
    ]
    assert {one["waiting"] for one in logged} == {"q"}


def test_what_stands_is_told_once_a_minute() -> None:
    now_s = 0.0
    standing = OnceAMinute(lambda: now_s)
    assert [standing.is_due(key) for key in ("full", "full", ("missing", "q"), "full")] == [True, False, True, False]
    now_s = STANDING_INTERVAL_S
    assert [standing.is_due("full"), standing.is_due("full")] == [True, False]
