"""What a service shows an orchestrator and an operator over HTTP."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from typing import Final

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from shared.background import run_every
from shared.observability import metrics
from shared.observability.health import STANDS_STILL_S, Liveness, Readiness, health_app, serve_health
from shared.observability.probe import probe as container_probe
from shared.observability.sampled import SampledGauge
from shared.records import dataclass
from tests.support.ports import free_port

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def readiness() -> Readiness:
    return Readiness("broker", "database")


@dataclass(slots=True)
class SetClock:
    """A clock that a test sets."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def liveness(clock: SetClock) -> Liveness:
    return Liveness(monotonic=clock)


@pytest.fixture
async def probe(readiness: Readiness, liveness: Liveness) -> AsyncIterator["Client"]:
    async with TestClient(TestServer(health_app(readiness, liveness))) as client:
        yield client


async def test_a_service_is_alive_before_it_is_ready(probe: "Client", readiness: Readiness) -> None:
    assert (await probe.get("/livez")).status == 200
    answer = await probe.get("/readyz")
    assert answer.status == 503
    assert await answer.json() == {"ready": False, "reasons": {"broker": "starting", "database": "starting"}}
    assert not readiness.ready


async def test_readiness_follows_the_components(probe: "Client", readiness: Readiness) -> None:
    readiness.set("broker", ok=True)
    readiness.set("database", ok=True, reason="not shown")
    answer = await probe.get("/readyz")
    assert answer.status == 200
    assert await answer.json() == {"ready": True, "reasons": {}}
    readiness.set("broker", ok=False, reason="cannot reach amqp://remit:hunter2@127.0.0.1/")
    answer = await probe.get("/readyz")
    assert answer.status == 503
    assert await answer.json() == {"ready": False, "reasons": {"broker": "cannot reach amqp://remit:***@127.0.0.1/"}}
    assert (await probe.get("/livez")).status == 200, "a restart would not help"


async def test_a_service_of_which_a_part_ended_is_not_alive(probe: "Client", liveness: Liveness) -> None:
    assert await (await probe.get("/livez")).json() == {"live": True, "reasons": {}}
    liveness.ended("outbox_sweeper", "KeyError: 'amqp://remit:hunter2@127.0.0.1/'")
    answer = await probe.get("/livez")
    assert answer.status == 503
    reasons = {"outbox_sweeper": "KeyError: 'amqp://remit:***@127.0.0.1/'"}
    assert await answer.json() == {"live": False, "reasons": reasons}


def test_work_that_does_not_end_is_not_alive(liveness: Liveness, clock: SetClock) -> None:
    with liveness.at_work("commit invoice.commands"):
        clock.now_s += STANDS_STILL_S - 1.0
        with liveness.at_work("lease_claimer"):
            clock.now_s += 1.0
            assert liveness.reasons == {}
            clock.now_s += 1.0
            assert liveness.reasons == {"commit invoice.commands": "its work stands still for 901 s"}
    assert liveness.reasons == {}, "it ended after all"


def test_work_that_fails_has_ended(liveness: Liveness, clock: SetClock) -> None:
    with pytest.raises(OSError, match="away"), liveness.at_work("outbox_sweeper"):
        raise OSError("away")
    clock.now_s += 2 * STANDS_STILL_S
    assert liveness.reasons == {}


async def test_what_a_background_task_is_doing_is_watched(liveness: Liveness, clock: SetClock) -> None:
    """And it is not while the task waits, however long: between two runs there may be an hour."""
    seen: list[dict[str, str]] = []

    class Task:
        name, interval_s = "lease_claimer", 3_600.0
        retry_on: tuple[type[Exception], ...] = ()

        async def run_once(self) -> float:
            clock.now_s += 2 * STANDS_STILL_S
            seen.append(liveness.reasons)
            return self.interval_s

    async def wait(seconds: float) -> None:
        clock.now_s += 2 * STANDS_STILL_S
        seen.append(liveness.reasons)
        if seconds:
            raise EOFError

    with pytest.raises(EOFError):
        await run_every(Task(), wait=wait, liveness=liveness)
    assert seen == [{}, {"lease_claimer": "its work stands still for 1800 s"}, {}]


def test_a_reason_is_always_given() -> None:
    readiness = Readiness()
    assert readiness.ready
    readiness.set("broker", ok=False)
    assert readiness.reasons == {"broker": "not ready"}
    readiness.set("broker", ok=False, reason="x" * 10_000)
    assert len(readiness.reasons["broker"]) == 200


async def test_metrics_are_prometheus_text(probe: "Client", readiness: Readiness) -> None:
    readiness.set("broker", ok=True)
    metrics.MESSAGES_HANDLED.labels(queue="invoice.commands", outcome="handled").inc(3)
    metrics.BATCH_SIZE.labels(queue="invoice.commands").observe(7)
    answer = await probe.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    assert any(sample.value >= 3 for sample in families["remit_messages_handled"].samples)
    assert families["remit_batch_size"].type == "histogram"
    ready = {sample.labels["component"]: sample.value for sample in families["remit_ready"].samples}
    assert ready["broker"] == 1
    assert ready["database"] == 0


async def test_other_paths_are_unknown(probe: "Client") -> None:
    assert (await probe.get("/")).status == 404
    assert (await probe.post("/readyz")).status == 405


async def test_it_listens_on_the_given_address_until_closed(readiness: Readiness) -> None:
    port = free_port()
    server = await serve_health(readiness, Liveness(), port=port)
    assert server.addresses == [("127.0.0.1", port)]
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/livez") as answer:
        assert answer.status == 200
    with pytest.raises(OSError, match="address already in use"):
        await serve_health(readiness, Liveness(), port=port)
    await server.close()
    await server.close()
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0


async def test_port_zero_is_off(readiness: Readiness) -> None:
    server = await serve_health(readiness, Liveness(), port=0)
    assert server.addresses == []
    await server.close()


def ours() -> list[tuple[str, str]]:
    return [(family.name, family.type) for family in REGISTRY.collect() if family.name.startswith("remit_")]


def test_metric_names_end_in_their_unit() -> None:
    assert len(ours()) >= 15
    for name, kind in ours():
        assert re.fullmatch(r"remit_[a-z_]+", name)
        if kind == "histogram":
            assert name.endswith(("_seconds", "_size")), name


CLOSED: Final = {
    "queue",
    "outcome",
    "reason",
    "cause",
    "exchange",
    "lane",
    "type",
    "step",
    "answer",
    "state",
    "currency",
    "component",
    "task",
    "version",
    "revision",
}
"""The labels whose values come from closed lists, or are those of this build."""


def test_labels_never_carry_ids() -> None:
    """A label with unlimited values would grow for ever, and could contain a sender's text."""
    used: set[str] = set()
    for metric in vars(metrics).values():
        if isinstance(metric, SampledGauge):
            used.update(metric.labels)
        elif isinstance(metric, MetricWrapperBase):
            used.update(metric._labelnames)
    assert used == CLOSED


def test_a_gauge_of_a_store_is_in_no_service_that_does_not_read_it() -> None:
    registry = CollectorRegistry()
    gauge = SampledGauge("remit_test_of_money", "For a test.", ["currency"], registry=registry)

    def shown() -> str:
        return "".join(line for line in generate_latest(registry).decode().splitlines(keepends=True) if line[0] != "#")

    assert shown() == "", "nobody knows"
    gauge.show({("EUR",): 5.0, ("USD",): 1.0})
    gauge.show({("EUR",): 6.0})
    assert shown() == 'remit_test_of_money{currency="EUR"} 6.0\nremit_test_of_money{currency="USD"} 0.0\n'
    gauge.hide()
    assert shown() == "", "nobody knows any more"


def test_a_gauge_follows_what_it_is_asked_for() -> None:
    registry = CollectorRegistry()
    gauge = SampledGauge("remit_test_of_pace", "For a test.", registry=registry)
    values = [0.5, 1.0]
    gauge.follow(lambda: values[0])
    assert registry.get_sample_value("remit_test_of_pace") == 0.5
    del values[0]
    assert registry.get_sample_value("remit_test_of_pace") == 1.0


async def test_a_container_asks_its_own_service(
    readiness: Readiness, liveness: Liveness, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 is yes. Whatever else is no, and says why."""
    server = await serve_health(readiness, liveness, port=(port := free_port()))
    try:
        assert await asyncio.to_thread(container_probe, "livez", port) == 0
        assert capsys.readouterr().out == ""
        assert await asyncio.to_thread(container_probe, "readyz", port) == 1
        assert "starting" in capsys.readouterr().out
    finally:
        await server.close()
    assert await asyncio.to_thread(container_probe, "livez", port) == 1
    assert capsys.readouterr().out == f"no answer on port {port}: ConnectionRefusedError\n"
