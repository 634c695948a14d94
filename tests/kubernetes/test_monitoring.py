"""What alerts and dashboards look for is what Prometheus finds, by `compose.yaml` and on Kubernetes alike."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
import yaml

from deploy.kubernetes import resources
from deploy.kubernetes.resources import ALERTS, RULES
from deploy.permissions.databases import SERVICES
from tests.kubernetes.manifests import Resource, of_kind, pods
from tests.support.programs import INSTALLED_WITHIN_S
from tests.unit.alerts.test_dashboards import DASHBOARDS, queries, read

pytestmark = pytest.mark.timeout(INSTALLED_WITHIN_S)
CONFIG: Final = RULES.with_name("prometheus.yml")
BROKER: Final[Resource] = {
    "metadata": {"labels": {"app.kubernetes.io/name": "remit-rabbitmq"}},
    "spec": {"containers": [{"ports": [{"name": "management"}, {"name": "prometheus", "containerPort": 15692}]}]},
}
"""A pod of the broker, as its operator makes it: https://www.rabbitmq.com/kubernetes/operator/operator-monitoring."""
Scrape = tuple[str, Mapping[str, list[str]]]
"""The path that is asked, and its parameters."""


def scraped_by_compose() -> dict[str, Scrape]:
    found = yaml.safe_load(CONFIG.read_text())["scrape_configs"]
    return {one["job_name"]: (one.get("metrics_path", "/metrics"), one.get("params", {})) for one in found}


def scraped_on_kubernetes() -> dict[str, Scrape]:
    return {
        job_of(monitor, endpoint, pod): (endpoint["path"], endpoint.get("params", {}))
        for monitor, endpoint, pod in scraped_pods()
    }


def scraped_pods() -> Iterator[tuple[Resource, Mapping[str, Any], Resource]]:
    """Each pod that a monitor selects and that has the port, with the monitor and its endpoint."""
    everyone = [pod for _, pod in pods("setup", "services", "operator")] + [BROKER]
    for monitor in of_kind("PodMonitor", "services").values():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for pod in everyone:
                if wanted <= pod["metadata"]["labels"].items() and endpoint["port"] in ports_of(pod):
                    yield monitor, endpoint, pod


def ports_of(pod: Resource) -> dict[str, int]:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    return {port["name"]: port.get("containerPort", 0) for port in ports}


def job_of(monitor: Resource, endpoint: Mapping[str, Any], pod: Resource) -> str:
    """The label `job` as the Prometheus operator makes it: the monitor's own rules come last, each in its turn."""
    unnamed = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    job: str = pod["metadata"]["labels"].get(monitor["spec"].get("jobLabel"), unnamed)
    for rule in endpoint.get("relabelings", ()):
        assert (rule["targetLabel"], rule.get("sourceLabels", ["job"])) == ("job", ["job"])
        if re.fullmatch(rule.get("regex", ".*"), job):
            job = rule["replacement"]
    return job


def test_kubernetes_is_scraped_as_compose_is() -> None:
    assert scraped_on_kubernetes() == scraped_by_compose()
    assert scraped_by_compose().keys() == {*SERVICES, "desk", "door", "rabbitmq", "rabbitmq_queues"}


def test_every_job_that_alerts_and_dashboards_name_is_scraped() -> None:
    texts = [RULES.read_text(), *(query for path in DASHBOARDS for query in queries(read(path)))]
    named = {job for text in texts for jobs in re.findall(r'\bjob=~?"([^"]+)"', text) for job in jobs.split("|")}
    assert named >= set(SERVICES)
    assert named <= scraped_by_compose().keys()


def test_prometheus_may_reach_every_port_that_it_scrapes() -> None:
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    policies = [one["spec"] for one in of_kind("NetworkPolicy", "platform").values()]
    for _, endpoint, pod in scraped_pods():
        opened = {
            port["port"]
            for policy in policies
            if policy["podSelector"].get("matchLabels", {}).items() <= pod["metadata"]["labels"].items()
            for rule in policy.get("ingress", ())
            if prometheus in rule["from"]
            for port in rule["ports"]
        }
        assert ports_of(pod)[endpoint["port"]] in opened


def test_the_alerts_are_those_of_compose() -> None:
    (rule,) = of_kind("PrometheusRule", "services").values()
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert ALERTS.read_text() == resources.alerts(), f"{ALERTS.name} is not what {RULES.name} says: run `make schema`"
