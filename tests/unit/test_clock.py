"""A fault run may set a service's clock wrong; nobody else may."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from shared.clock import clock_of_a_service, system_clock


def test_a_service_reads_the_clock_of_its_machine() -> None:
    assert clock_of_a_service(0.0) is system_clock


@pytest.mark.parametrize("off_s", [3_600, -3_600])
def test_a_wrong_clock_logs_its_offset(off_s: int) -> None:
    with capture_logs() as logs:
        clock = clock_of_a_service(off_s)
    before = system_clock()
    assert timedelta() <= clock() - before - timedelta(seconds=off_s) < timedelta(seconds=60)
    assert [(entry["event"], entry["seconds"], entry["log_level"]) for entry in logs] == [
        ("clock_is_off", off_s, "warning")
    ]
