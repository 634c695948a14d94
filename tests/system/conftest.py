"""The real processes: four services, the sandbox gateway, RabbitMQ and PostgreSQL."""

import uuid
from collections.abc import Generator, Iterator

import pytest

from deploy.local.stack import SERVICES, Stack
from deploy.local.system import System, open_system_on


@pytest.fixture(scope="session")
def whole_system(stack: Stack) -> Iterator[System]:
    """Everything but the services, which tests start. At the end those that run are stopped, and must end in time."""
    yield from a_system(stack)


def a_system(stack: Stack) -> Iterator[System]:
    """One more of it, for tests whose senders keep no history: the audit of other tests asks what its senders sent."""
    with stack.part(f"system_{uuid.uuid4().hex[:8]}") as own, open_system_on(own) as opened:
        yield opened
        opened.fleet.stop_all()


FAILED = pytest.StashKey[bool]()
LINES_SHOWN = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether a test failed, so that the logs of its services can be shown."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def system(whole_system: System, request: pytest.FixtureRequest) -> Iterator[System]:
    """One instance of each service runs: that of the test before, if it was left running. After a failure the logs are shown, and all
    instances end."""
    fleet = whole_system.fleet
    before = {path: path.stat().st_size for path in whole_system.folder.glob("*.log")}
    for name in {*fleet.names} - {*SERVICES}:
        fleet.stop(name)
    for service in SERVICES:
        if not fleet.is_running(service):
            fleet.start(service)
    yield whole_system
    if request.node.stash.get(FAILED, False):
        for path in sorted(whole_system.folder.glob("*.log")):
            lines = path.read_bytes()[before.get(path, 0) :].decode(errors="replace").splitlines()
            print(f"---- {path.name}", *(line[:600] for line in lines[-LINES_SHOWN:]), sep="\n")  # noqa: T201 - pytest shows it
        for name in fleet.names:
            fleet.kill(name)
