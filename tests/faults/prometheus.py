"""A Prometheus of our own that evaluates the rules of deploy/prometheus on the processes of a testbed, where an hour is a minute."""

import asyncio
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.stack import SERVICES
from tests.faults.testbed import POLL_S, Testbed
from tests.faults.trial import NotPossibleHereError
from tests.support.ports import free_port
from tests.support.programs import installed

RULES: Final = ROOT / "deploy" / "prometheus" / "rules.yml"
FASTER: Final = 60
EVERY: Final = "1s"
"""How often Prometheus scrapes, and evaluates the rules."""
READY_WITHIN_S: Final = 60.0
SILENT_FOR_S: Final = 5.0
"""Services show what they know within a second, and it is scraped and looked at within two more."""
PLUGIN: Final = "rabbitmq_prometheus"
_BROKER_JOBS: Final = ("rabbitmq", "rabbitmq_queues")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600}

# Runs what follows until its standard input is closed: it ends with us, however we end.
_UNTIL_CLOSED: Final = 'exec 3<&0; "$@" </dev/null & cat <&3 >/dev/null; kill $!; wait'


def without_web(rules: str) -> str:
    """The rules for where no desk and no door is meant to run: here one runs only in the faults about it."""
    return re.sub(r' or absent\(up\{job="(desk|door)"\}\)', "", rules)


def faster(rules: str) -> str:
    """The rules for a world in which an hour is a minute: durations, ages, and what comes to pass within a duration."""

    def shorter(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * _UNIT_S[found[3]] * 1_000 // FASTER}ms{found[4]}"

    rules = re.sub(r"(for: )(\d+)([smh])()", shorter, rules)
    lines = [re.sub(r"(\[)(\d+)([smh])(\])", _more_often, line) for line in rules.splitlines()]
    return "\n".join(_younger(line) for line in lines)


def _more_often(found: re.Match[str]) -> str:
    return f"[{int(found[2]) * _UNIT_S[found[3]] // FASTER}s]"


def _younger(line: str) -> str:
    """With thresholds of age, of how often something fails, and of how much has gathered, for as much less time."""
    if "_seconds" in line or "_failures_total" in line:
        return re.sub(r"> (\d+)$", lambda found: f"> {int(found[1]) / FASTER:g}", line)
    return re.sub(r"^( +> )10000$", r"\g<1>10", line)  # messages in a queue


class Alerts:
    """What the alerts of a testbed say."""

    def __init__(self, testbed: Testbed, port: int) -> None:
        self._testbed = testbed
        self._port = port
        self.fired: set[str] = set()
        """Those that have fired."""

    async def listen(self) -> None:
        """Note what fires, for ever. An alert may be over before anybody waits for it."""
        while True:
            with suppress(OSError):  # on a busy machine it may not answer in time
                await self.firing()
            await asyncio.sleep(POLL_S)

    async def firing(self) -> set[str]:
        """Those that fire now."""
        now = {one["labels"]["alertname"] for one in await self._told() if one["state"] == "firing"}
        self.fired |= now
        return now

    async def until_fired(self, alerts: Collection[str], *, within_s: float) -> None:
        """Wait until each of these has fired once."""
        for alert in sorted(alerts):

            async def fired(alert: str = alert) -> bool:
                return alert in self.fired

            await self._testbed.until(fired, what=f"{alert} to fire", within_s=within_s)

    async def until_clear(self, alerts: Collection[str], *, within_s: float) -> None:
        """Wait until none of these fires."""
        for alert in sorted(alerts):

            async def clear(alert: str = alert) -> bool:
                with suppress(OSError):
                    return alert not in await self.firing()
                return False

            await self._testbed.until(clear, what=f"{alert} to end", within_s=within_s)

    async def until_silent(self, alerts: Collection[str], *, within_s: float, for_s: float = SILENT_FOR_S) -> None:
        """Wait until none of these has fired, or been about to, for a while."""
        loud_at = time.monotonic()

        async def silent() -> bool:
            nonlocal loud_at
            try:
                told = {one["labels"]["alertname"] for one in await self._told()}
            except OSError:
                told = set(alerts)
            if not told.isdisjoint(alerts):
                loud_at = time.monotonic()
            return time.monotonic() - loud_at > for_s

        await self._testbed.until(silent, what=f"silence of {', '.join(sorted(alerts))}", within_s=within_s)

    async def _told(self) -> list[dict[str, Any]]:
        """Those that fire now, and those that will unless it is over soon (`pending`)."""
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/alerts", timeout=10) as answer:
            told: list[dict[str, Any]] = json.load(answer)["data"]["alerts"]
        return told


@asynccontextmanager
async def watching(testbed: Testbed) -> AsyncIterator[Alerts]:
    """Scrape all instances of the testbed, and its virtual host, until the block ends."""
    broker_port = await asyncio.to_thread(_broker_metrics, testbed)
    with TemporaryDirectory(prefix="remit-prometheus-") as name:
        folder, port = Path(name), free_port()
        (folder / "rules.yml").write_text(faster(without_web(RULES.read_text())))
        (folder / "prometheus.yml").write_text(json.dumps(_configuration(testbed.vhost, broker_port)))  # JSON is YAML
        targets = folder / "targets.json"
        _name_targets(testbed, targets)
        process = await asyncio.to_thread(_start, folder, port)
        naming = asyncio.create_task(_keep_named(testbed, targets))
        try:
            await testbed.until(lambda: asyncio.to_thread(_sees_all, port), what="Prometheus", within_s=READY_WITHIN_S)
            alerts = Alerts(testbed, port)
            listening = asyncio.create_task(alerts.listen())
            try:
                yield alerts
            finally:
                listening.cancel()
        finally:
            naming.cancel()
            assert process.stdin is not None
            process.stdin.close()
            await asyncio.to_thread(process.wait)


def _start(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    try:
        program = installed("prometheus", "prometheus")
    except StackError as error:
        raise NotPossibleHereError(str(error)) from None
    options = (f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'data'}")
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ("sh", "-c", _UNTIL_CLOSED, "sh", program, f"--config.file={folder / 'prometheus.yml'}", *options),
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _configuration(vhost: str, broker_port: int) -> dict[str, Any]:
    """As deploy/prometheus/prometheus.yml has it, for addresses of this machine and one virtual host."""
    broker = [{"targets": [f"127.0.0.1:{broker_port}"]}]
    of_queues = {"vhost": [vhost], "family": ["queue_coarse_metrics", "queue_consumer_count"]}
    return {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": "services", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]},
            {"job_name": "rabbitmq", "scrape_interval": "1s", "static_configs": broker},
            {
                "job_name": "rabbitmq_queues",
                "scrape_interval": "1s",
                "metrics_path": "/metrics/detailed",
                "params": of_queues,
                "static_configs": broker,
            },
        ],
    }


def _name_targets(testbed: Testbed, file: Path) -> None:
    """Name every instance. One that was killed or stopped is still named, as long as no other takes its place."""
    named = json.dumps(
        [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"job": name.partition("-")[0]}}
            for name, port in testbed.ports.items()
            if "-" not in name or name in testbed.system.fleet.names
        ]
    )
    if not file.exists() or file.read_text() != named:
        new = file.with_suffix(".new")
        new.write_text(named)
        new.rename(file)


async def _keep_named(testbed: Testbed, file: Path) -> None:
    while True:
        await asyncio.sleep(POLL_S)
        _name_targets(testbed, file)


def _sees_all(port: int) -> bool:
    """Whether every service and the broker were scraped: of what rose before that, no rule sees that it rose."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5) as answer:
        targets = json.load(answer)["data"]["activeTargets"]
        return {one["labels"]["job"] for one in targets if one["health"] == "up"} >= {*SERVICES, *_BROKER_JOBS}
    return False


_plugins: Final[dict[str, int]] = {}
"""The ports of RabbitMQ's plugin, by the broker's name."""


def _broker_metrics(testbed: Testbed) -> int:
    """The port at which the broker shows its metrics. Its plugin is turned on, as an operator does it."""
    broker = testbed.system.stack.broker
    if not isinstance(broker, PrivateRabbit):
        raise NotPossibleHereError("the broker's plugin for Prometheus is turned on only in a broker of our own")
    if broker.name not in _plugins:
        _plugins[broker.name] = free_port()
        listens = f'[{{ip, "127.0.0.1"}}, {{port, {_plugins[broker.name]}}}]'
        broker.ctl("eval", f"application:set_env({PLUGIN}, tcp_config, {listens}, [{{persistent, true}}]).")
        broker.enable(PLUGIN)
    return _plugins[broker.name]


def alerts_of(rules: str) -> Iterable[str]:
    """The names of all alerts."""
    return re.findall(r"^ +- alert: (\w+)$", rules, re.MULTILINE)
