"""The manifests render, fulfil the schemas of their kinds, and refer to what exists; what they configure is what the code reads."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest

from deploy.cli.config import settings_of
from deploy.kubernetes import resources
from deploy.kubernetes.resources import SCALER, dns_name
from deploy.kubernetes.secrets import ROLES, secrets
from deploy.permissions.broker import broker_users
from deploy.permissions.databases import AUDIT, PURGE, SERVICES, owner
from services.invoice.door.settings import PORT as DOOR_PORT
from services.invoice.door.settings import DoorSettings
from services.invoice.settings import InvoiceSettings
from services.payment_gateway import webhooks
from services.payment_gateway.settings import CALLS_IN_FLIGHT, PaymentGatewaySettings, ReconcileSettings
from services.staff.desk.settings import PORT as DESK_PORT
from services.staff.desk.settings import DeskSettings
from shared import service as shared_service
from shared.messaging.topology import QUEUES, SUSPECT_COMMANDS, UNREADABLE_DEAD_LETTERS
from shared.observability.health import Liveness, Readiness, health_app
from shared.service import ServiceSettings
from shared.settings import EnvironmentVariables
from tests.kubernetes.manifests import (
    BASES,
    EXAMPLE,
    FOLDER,
    RENDERED,
    Resource,
    configured,
    containers,
    mistakes,
    of_kind,
    pods,
    render,
    schemas,
)
from tests.support.programs import INSTALLED_WITHIN_S
from tests.unit.books.documents import table

pytestmark = pytest.mark.timeout(INSTALLED_WITHIN_S)
NAMESPACE: Final = "remit"
GIVEN: Final[Mapping[str, str]] = {
    "gateway": "api-key",
    "card-keys": "keys.json",
    "gateway-webhook": "secrets",
    "webhooks-tls": "tls.crt",
    "backups": "id",
    "desk-oidc": "client-secret",
}
"""Secrets that nobody draws, and a key of each."""
UNREAD: Final = {"RABBITMQ_PASSWORD", "DATABASE_PASSWORD", *(f"{service.upper()}_PASSWORD" for service in SERVICES)}
"""Variables that only other variables refer to."""


def secret_value(name: str, key: str) -> str:
    """What a secret holds, if it exists and has the key."""
    if name in GIVEN:
        assert GIVEN[name] == key, f"the secret {name} has no key {key}"
        return "whsec_key" if name == "gateway-webhook" else "sk_test_key"
    assert key in {"username", "password"}, f"the secret {name} has no key {key}"
    assert name in drawn(), f"nobody makes the secret {name}"
    return drawn()[name] if key == "username" else "0123abcd"


def drawn() -> dict[str, str]:
    """The secrets that are drawn, with the username in each."""
    return {one["metadata"]["name"]: one["stringData"]["username"] for one in secrets(["shop"])}


def environments(*folders: str) -> Iterator[tuple[str, dict[str, str]]]:
    maps = of_kind("ConfigMap", *folders)
    for name, pod in pods(*folders):
        for container in containers(pod):
            yield f"{name}/{container['name']}", configured(container, maps, secret_value)


# -- schemas -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", RENDERED)
def test_every_resource_fulfils_its_schema(folder: str) -> None:
    assert [mistake for resource in render(folder) for mistake in mistakes(resource)] == []


def test_drawn_secrets_fulfil_their_schema() -> None:
    assert [mistake for one in secrets(["shop"]) for mistake in mistakes(one)] == []


KINDS: Final = (
    *(
        "Namespace",
        "NetworkPolicy",
        "Deployment",
        "Job",
        "CronJob",
        "Pod",
        "ConfigMap",
        "Service",
        "PodDisruptionBudget",
        "ScaledObject",
    ),
    *("TriggerAuthentication", "PodMonitor", "Cluster", "Database", "RabbitmqCluster", "Exchange", "Queue", "Binding"),
    *("User", "Permission", "Service", "Ingress", "ScheduledBackup", "PrometheusRule"),
)


def test_every_kind_is_tried() -> None:
    assert {one["kind"] for folder in RENDERED for one in render(folder)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_refuses_a_misspelt_field_wherever_it_stands(kind: str) -> None:
    one = next(resource for folder in RENDERED for resource in render(folder) if resource["kind"] == kind)
    for path in _closed_objects({"$ref": f"#/$defs/{kind}"}, schemas()[kind]["$defs"], one, ()):
        wrong: Any = copy.deepcopy(one)
        inner = wrong
        for step in path:
            inner = inner[step]
        inner["misspelt"] = 1
        assert mistakes(wrong), f"{kind}: a misspelt field at {path} is not noticed"


def _closed_objects(
    schema: Mapping[str, Any], parts: Mapping[str, Any], value: Any, path: tuple[str | int, ...]
) -> Iterator[tuple[str | int, ...]]:
    """Where in a resource the schema lists the fields. Elsewhere, as in labels, any are right."""
    while "$ref" in schema:
        beside = {key: inner for key, inner in schema.items() if key != "$ref"}
        schema = {**parts[schema["$ref"].removeprefix("#/$defs/")], **beside}
    if isinstance(value, Mapping) and "properties" in schema:
        yield path
        for key, inner in value.items():
            yield from _closed_objects(schema["properties"].get(key, {}), parts, inner, (*path, key))
    elif isinstance(value, list) and "items" in schema:
        for at, inner in enumerate(value):
            yield from _closed_objects(schema["items"], parts, inner, (*path, at))


def test_all_stands_in_one_namespace() -> None:
    outside = [
        one["metadata"] for folder in BASES for one in render(folder) if one["metadata"].get("namespace") != NAMESPACE
    ]
    assert outside == [{"name": NAMESPACE}]  # the namespace itself


# -- pods ----------------------------------------------------------------------------------------------------------------------------------

DEPLOYED: Final = (*map(dns_name, SERVICES), "desk", "door")
TEMPLATES: Final = (*DEPLOYED, "reconcile", "remit-setup", "remit-operator")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_pod_is_restricted(name: str) -> None:
    pod = dict(pods(*EXAMPLE))[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers({"spec": pod}):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys() == {"cpu", "memory"}
    assert {name for name, _ in pods(*EXAMPLE)} == set(TEMPLATES)


def test_a_pod_is_given_the_time_that_a_service_takes_to_stop() -> None:
    longest_s = (
        shared_service.DRAIN_TIMEOUT_S
        + shared_service.DRAIN_OUTSIDE_S
        + shared_service.CANCELS_MAX * shared_service.CANCEL_INTERVAL_S
    )
    for name, one in of_kind("Deployment", "services").items():
        assert one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > longest_s, name


def test_instances_are_replaced_without_a_gap_and_counted_by_the_scaler_alone() -> None:
    scaled = of_kind("ScaledObject", "services")
    for name, one in of_kind("Deployment", "services").items():
        assert one["spec"]["strategy"] == {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}, name
        if name == "desk":  # people do not queue
            assert one["spec"]["replicas"] == 2
            assert name not in scaled
            continue
        assert "replicas" not in one["spec"], name
        assert scaled[name]["spec"]["scaleTargetRef"] == {"name": name}
        assert scaled[name]["spec"]["minReplicaCount"] == 2


def test_selectors_select_what_they_are_for() -> None:
    deployments = of_kind("Deployment", "services")
    budgets = of_kind("PodDisruptionBudget", "services")
    assert deployments.keys() == budgets.keys() == set(DEPLOYED)
    for name, one in deployments.items():
        selector = one["spec"]["selector"]["matchLabels"]
        chosen = [other for other, pod in pods("setup", "services") if selector.items() <= _labels(pod).items()]
        assert chosen == [name]
        assert budgets[name]["spec"]["selector"]["matchLabels"] == selector


def test_every_network_policy_selects_something() -> None:
    labels = [_labels(pod) for _, pod in pods("setup", "services", "operator")]
    labels += [{"app.kubernetes.io/name": name} for name in of_kind("RabbitmqCluster", "platform")]
    labels += [{"cnpg.io/cluster": name} for name in of_kind("Cluster", "platform")]
    policies = of_kind("NetworkPolicy", "platform", "services")
    for name, one in policies.items():
        for selector in (one["spec"]["podSelector"], *_pods_named(one["spec"])):
            wanted = selector["matchLabels"]
            assert wanted == {"k8s-app": "kube-dns"} or any(wanted.items() <= own.items() for own in labels), name
    refused = policies["nobody"]["spec"]
    assert refused["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & refused.keys()
    assert all(
        refused["podSelector"]["matchLabels"].items() <= _labels(pod).items() for _, pod in pods("setup", "services")
    )


def test_only_what_asks_the_gateway_reaches_the_world() -> None:
    policies = of_kind("NetworkPolicy", "platform", "services")
    outside = {
        name: rule
        for name, one in policies.items()
        for rule in one["spec"].get("egress", ())
        if any("ipBlock" in peer for peer in rule["to"])
    }
    assert outside.keys() == {"card-gateway", "reconcile"}
    assert outside["reconcile"] == outside["card-gateway"]
    assert [port["port"] for port in outside["card-gateway"]["ports"]] == [443]
    chosen = [
        name
        for policy in outside
        for name, pod in pods("setup", "services")
        if policies[policy]["spec"]["podSelector"]["matchLabels"].items() <= _labels(pod).items()
    ]
    assert chosen == ["payment-gateway", "reconcile"]


def _labels(pod: Resource) -> dict[str, str]:
    found: dict[str, str] = pod["metadata"]["labels"]
    return found


def _pods_named(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for rules, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(rules, ()):
            yield from (peer["podSelector"] for peer in rule[peers] if "podSelector" in peer)


def test_the_monitor_scrapes_the_port_that_answers() -> None:
    spec = of_kind("PodMonitor", "services")["remit"]["spec"]
    ports = {
        (port["name"], port["containerPort"])
        for _, pod in pods("services")
        if spec["selector"]["matchLabels"].items() <= _labels(pod).items()
        for port in pod["spec"]["containers"][0].get("ports", ())
    }
    assert ports == {(spec["podMetricsEndpoints"][0]["port"], 8080), ("desk", DESK_PORT), ("door", DOOR_PORT)}
    told = {name: variables.get("HEALTH_PORT") for name, variables in environments("services")}
    assert told == dict.fromkeys((f"{name}/remit" for name in DEPLOYED), "8080") | {"reconcile/remit": None}


# -- images --------------------------------------------------------------------------------------------------------------------------------

DOCKERFILE: Final = FOLDER.parent / "Dockerfile"
IMAGES: Final = {f"remit-{name}" for name in DEPLOYED} | {"remit-tools"}


def test_the_images_are_those_that_are_built() -> None:
    built = set(re.findall(r"image: (remit-[a-z-]+):", (FOLDER.parent / "compose.yaml").read_text()))
    used = {container["image"] for _, pod in pods(*BASES) for container in containers(pod)}
    given = {container["image"] for _, pod in pods(*EXAMPLE) for container in containers(pod)}
    assert used == built == IMAGES
    assert given == {f"registry.example/{name}:1.0.0" for name in IMAGES}


def test_containers_leave_the_program_to_the_image() -> None:
    """The image's own entry point hears signals. Only the pod that waits for people has a program of its own."""
    assert set(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE.read_text(), re.MULTILINE)) == {'["python", "/app"]'}
    assert set(re.findall(r"^USER (.*)$", DOCKERFILE.read_text(), re.MULTILINE)) == {"10001:10001"}
    told = {
        container["name"]: container["command"]
        for _, pod in pods(*BASES)
        for container in containers(pod)
        if "command" in container
    }
    assert told == {"operator": ["sleep", "infinity"]}


# -- settings ------------------------------------------------------------------------------------------------------------------------------


def test_every_variable_is_one_that_the_code_reads() -> None:
    read = {name for service in SERVICES for name in settings_of(service).known_variables()}
    read |= {*DeskSettings.known_variables(), *DoorSettings.known_variables()}
    for where, variables in environments(*EXAMPLE):
        assert variables.keys() - UNREAD <= read, where
        assert EnvironmentVariables(variables).misspelled(sorted(read)) is None, where


def test_no_reference_to_a_variable_stays_unanswered() -> None:
    for where, variables in environments(*EXAMPLE):
        assert not [name for name, value in variables.items() if "$(" in value], where


@pytest.mark.parametrize("folder", ["services", "example/services"])
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_takes_its_settings(name: str, folder: str) -> None:
    told = dict(environments(folder))[f"{dns_name(name)}/remit"]
    told.pop("CARD_KEYS_FILE", None)  # a file in the pod
    settings = settings_of(name).read(EnvironmentVariables(told))
    assert isinstance(settings, ServiceSettings)
    broker, database = urlsplit(settings.rabbitmq_url), urlsplit(settings.database_url)
    assert (broker.hostname, broker.port, unquote(broker.path)) == ("remit-rabbitmq", 5672, f"/{resources.VHOST}")
    assert (database.hostname, database.port, database.path) == ("remit-postgres-rw", 5432, f"/{name}")
    assert broker.username == database.username == name
    assert settings.health_host == "0.0.0.0"  # noqa: S104 - what is under test
    if isinstance(settings, InvoiceSettings):
        assert settings.senders == "named"
    if isinstance(settings, PaymentGatewaySettings):
        assert settings.mode == ("live" if folder.startswith("example") else "test")


@pytest.mark.parametrize("folder", ["services", "example/services"])
def test_the_desk_takes_its_settings(folder: str) -> None:
    told = dict(environments(folder))["desk/remit"]
    told.pop("DESK_OIDC_CLIENT_SECRET_FILE", None)  # a file in the pod
    settings = DeskSettings.read(EnvironmentVariables(told))
    database = urlsplit(settings.database_url)
    assert (database.username, database.hostname, database.path) == ("staff", "remit-postgres-rw", "/staff")
    assert "RABBITMQ_URL" not in told
    assert settings.is_secure
    assert bool(settings.provider) == folder.startswith("example")
    assert settings.port == DESK_PORT


@pytest.mark.parametrize("folder", ["services", "example/services"])
def test_the_door_takes_its_settings(folder: str) -> None:
    told = dict(environments(folder))["door/remit"]
    settings = DoorSettings.read(EnvironmentVariables(told))
    database = urlsplit(settings.database_url)
    assert (database.username, database.hostname, database.path) == ("door", "remit-postgres-rw", "/invoice")
    assert "RABBITMQ_URL" not in told
    assert (settings.port, settings.host) == (DOOR_PORT, "0.0.0.0")  # noqa: S104 - what is under test
    invoice = settings_of("invoice").read(EnvironmentVariables(dict(environments(folder))["invoice/remit"]))
    assert isinstance(invoice, InvoiceSettings)
    assert settings.of_senders() == invoice.of_senders(), "whose is what, both say alike"


@pytest.mark.parametrize(("name", "port"), [("desk", DESK_PORT), ("door", DOOR_PORT)])
def test_what_is_asked_over_http_is_reached_by_its_service_alone(name: str, port: int) -> None:
    service = of_kind("Service", "services")[name]["spec"]
    chosen = [other for other, pod in pods("setup", "services") if service["selector"].items() <= _labels(pod).items()]
    assert (chosen, service["ports"][0]["targetPort"]) == ([name], name)
    policy = of_kind("NetworkPolicy", "platform")[name]["spec"]
    assert policy["ingress"][0]["ports"] == [{"port": port, "protocol": "TCP"}]


@pytest.mark.parametrize("folder", ["services", "example/services"])
def test_what_reconciles_every_night_asks_the_gateway_of_the_service_and_may_write(folder: str) -> None:
    pod = dict(pods(folder))["reconcile"]
    assert [one["args"] for one in containers(pod)] == [["reconcile", "--look"]]
    told = dict(environments(folder))
    settings = ReconcileSettings.read(EnvironmentVariables(told["reconcile/remit"]))
    service = PaymentGatewaySettings.read(EnvironmentVariables(told["payment-gateway/remit"] | {"CARD_KEYS_FILE": ""}))
    assert (settings.gateway_url, settings.gateway_api_key, settings.mode, settings.database_url) == (
        service.gateway_url,
        service.gateway_api_key,
        service.mode,
        service.database_url,
    )


def test_all_instances_together_keep_to_the_pace_of_the_gateway() -> None:
    """Stripe takes 100 calls a second in live mode and 25 in test mode, and 25 to an endpoint (services/payment_gateway/settings.py)."""
    at_most = of_kind("ScaledObject", "services")["payment-gateway"]["spec"]["maxReplicaCount"]
    for folder, limit in (("services", 25), ("example/services", 100)):
        told = dict(environments(folder))["payment-gateway/remit"] | {"CARD_KEYS_FILE": ""}
        charging = PaymentGatewaySettings.read(EnvironmentVariables(told)).charging
        assert charging.requests_per_s * at_most <= limit
        assert charging.endpoint_requests_per_s * at_most <= 25


def test_the_job_does_what_the_set_up_is() -> None:
    pod = dict(pods("setup"))["remit-setup"]
    assert [" ".join(one["args"]) for one in containers(pod)] == ["migrate", "permissions apply", "topology apply"]
    told = dict(environments("setup"))
    for step in ("migrate", "permissions"):
        for service in SERVICES:
            url = urlsplit(EnvironmentVariables(told[f"remit-setup/{step}"]).database_url(service))
            assert (url.username, url.hostname, url.path) == (owner(service), "remit-postgres-rw", f"/{service}")
    broker = urlsplit(EnvironmentVariables(told["remit-setup/topology"]).rabbitmq_url())
    assert (broker.username, unquote(broker.path)) == ("remit_setup", f"/{resources.VHOST}")


def test_after_an_upgrade_the_job_takes_away_what_the_build_before_used() -> None:
    before = render("example/setup")
    after = of_kind("Job", "example/after-upgrade")
    assert after.keys() == {"remit-after-upgrade"}
    assert {one["metadata"]["name"] for one in before} == {"remit-setup"}
    pod = dict(pods("example/after-upgrade"))["remit-after-upgrade"]
    assert [" ".join(one["args"]) for one in containers(pod)] == ["migrate --post", "topology prune"]


def test_who_operates_has_the_roles_of_who_looks_and_of_who_decides() -> None:
    told = dict(environments("operator"))["remit-operator/operator"]
    roles = {service: urlsplit(EnvironmentVariables(told).database_url(service)) for service in SERVICES}
    assert {service: url.username for service, url in roles.items()} == dict.fromkeys(SERVICES, AUDIT) | {
        "staff": "staff"
    }
    assert {service: url.path for service, url in roles.items()} == {service: f"/{service}" for service in SERVICES}


def test_probes_ask_for_what_is_answered() -> None:
    answered = {
        route.resource.canonical for route in health_app(Readiness(), Liveness()).router.routes() if route.resource
    }
    for one in of_kind("Deployment", "services").values():
        (container,) = one["spec"]["template"]["spec"]["containers"]
        asked = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
        assert asked == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
        assert set(asked.values()) <= answered
    assert of_kind("PodMonitor", "services")["remit"]["spec"]["podMetricsEndpoints"][0]["path"] in answered


def test_a_secret_holds_the_name_that_the_url_says() -> None:
    for name, pod in pods("setup", "services", "operator"):
        for container in containers(pod):
            secret_of = {
                one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one
            }
            for variable in container["env"]:
                user = re.match(r"\w+://(\w+):\$\((\w+)\)@", variable.get("value", ""))
                if user is not None:
                    assert drawn()[secret_of[user[2]]["name"]] == user[1], (name, variable["name"])


def test_every_address_is_a_service_that_the_operators_make() -> None:
    made = {f"{name}" for name in of_kind("RabbitmqCluster", "platform")}
    made |= {f"{name}-rw" for name in of_kind("Cluster", "platform")}
    used = {
        urlsplit(value).hostname for _, told in environments(*EXAMPLE) for name, value in told.items() if "URL" in name
    }
    for one in of_kind("ScaledObject", "services").values():
        for trigger in one["spec"]["triggers"]:
            if (host := trigger["metadata"].get("host")) is None:
                continue  # it asks the cluster how busy pods are
            used.add((urlsplit(host).hostname or host).removesuffix(f".{NAMESPACE}.svc.cluster.local"))
    of_others = {"api.stripe.com", "desk.example"}  # the gateway, and what browsers type
    assert used - of_others == made


def test_events_of_the_gateway_reach_the_port_that_the_service_listens_on_and_no_other_path() -> None:
    pod = of_kind("Deployment", "example/services")["payment-gateway"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (port,) = [port["containerPort"] for port in container["ports"] if port["name"] == "webhooks"]
    settings = dict(environments("example/services"))["payment-gateway/remit"]
    assert settings["GATEWAY_WEBHOOK_PORT"] == str(port)
    service = of_kind("Service", "example/services")["webhooks"]
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "webhooks"}]
    assert service["spec"]["selector"] == {"app.kubernetes.io/name": "payment-gateway"}
    (ingress,) = of_kind("Ingress", "example/services").values()
    (rule,) = ingress["spec"]["rules"]
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == (webhooks.PATH, "Exact")
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}
    policy = of_kind("NetworkPolicy", "example/services")["webhooks"]
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": port, "protocol": "TCP"}]


# -- secrets -------------------------------------------------------------------------------------------------------------------------------


def _secrets_named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in {"secretKeyRef", "passwordSecret", "importCredentialsSecret", "accessKeyId", "secretAccessKey"}:
                yield inner["name"]
            elif key == "secretTargetRef":
                yield from (one["name"] for one in inner)
            elif key == "secretName":
                yield inner
            else:
                yield from _secrets_named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets_named(inner)


def test_every_secret_is_made_and_told_of_and_none_is_written_down() -> None:
    named = {name for folder in EXAMPLE for one in render(folder) for name in _secrets_named(one)}
    assert named == {*drawn(), *GIVEN}
    told = table(FOLDER / "README.md", "secret", "keys")
    assert {*told.codes("secret"), "rabbitmq-shop"} == named
    assert not [one for folder in RENDERED for one in render(folder) if one["kind"] == "Secret"]


def test_no_password_is_drawn_twice() -> None:
    passwords = [one["stringData"]["password"] for one in secrets()]
    assert len({*passwords}) == len(passwords)
    assert all(re.fullmatch(r"[0-9a-f]{32}", password) for password in passwords)


# -- scaling -------------------------------------------------------------------------------------------------------------------------------


def _triggers(kind: str) -> dict[str, list[Mapping[str, Any]]]:
    return {
        name: [trigger["metadata"] for trigger in one["spec"]["triggers"] if trigger["type"] == kind]
        for name, one in of_kind("ScaledObject", "services").items()
    }


OPTIONAL = {queue.name for queue in QUEUES if queue.is_optional}


def test_each_service_is_scaled_by_the_queues_that_it_works_through() -> None:
    """Of suspect commands there are hardly any, what is unreadable nobody consumes, and for mere views no instance is added."""
    readers = {dns_name(user.name): user.read for user in broker_users() if user.name in SERVICES}
    scaled = {name: {one["queueName"] for one in found} for name, found in _triggers("rabbitmq").items() if found}
    assert _triggers("rabbitmq").keys() - scaled.keys() == {"door"}, "it takes requests, and no messages"
    assert scaled == {
        name: set(read) - {SUSPECT_COMMANDS, UNREADABLE_DEAD_LETTERS, *OPTIONAL} for name, read in readers.items()
    }
    for found in filter(None, _triggers("rabbitmq").values()):
        assert {(one["protocol"], one["mode"], one["vhostName"]) for one in found} == {
            ("http", "QueueLength", resources.VHOST)
        }


def test_another_instance_comes_when_one_has_all_the_calls_that_it_can_make() -> None:
    found = _triggers("postgresql")
    assert [int(one["targetQueryValue"]) for one in found["payment-gateway"]] == [CALLS_IN_FLIGHT]


def test_the_scalers_log_in_with_secrets_that_exist() -> None:
    given = {name: one["spec"]["secretTargetRef"] for name, one in of_kind("TriggerAuthentication", "services").items()}
    for one in of_kind("ScaledObject", "services").values():
        for trigger in one["spec"]["triggers"]:
            if trigger["type"] == "cpu":
                continue
            whose = {drawn()[entry["name"]] for entry in given[trigger["authenticationRef"]["name"]]}
            assert whose == {AUDIT if trigger["type"] == "postgresql" else SCALER.name}


def test_the_database_takes_all_connections_of_all_instances() -> None:
    surge = 1  # one more in an upgrade
    instances = sum(one["spec"]["maxReplicaCount"] + surge for one in of_kind("ScaledObject", "services").values())
    instances += of_kind("Deployment", "services")["desk"]["spec"]["replicas"] + surge
    limit = int(of_kind("Cluster", "platform")["remit-postgres"]["spec"]["postgresql"]["parameters"]["max_connections"])
    assert instances * shared_service.CONNECTIONS_MAX + 50 <= limit  # for operators, audits and scalers


# -- platform ------------------------------------------------------------------------------------------------------------------------------


def test_what_the_registry_says_is_written_down() -> None:
    for name, found in (("topology", resources.topology()), ("users", resources.users())):
        path = FOLDER / f"platform/{name}.yaml"
        assert path.read_text() == resources.text_of(found), (
            f"{path.name} is not what the registry says: run `make schema`"
        )


def test_the_example_has_the_sender_that_it_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["resources", "--sender", "shop", "--listener", "shop"])
    resources.main()
    assert (FOLDER / "example/platform/shop.yaml").read_text() == capsys.readouterr().out


def test_a_refused_sender_is_told_why(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["resources", "--sender", "invoice"])
    with pytest.raises(SystemExit) as raised:
        resources.main()
    assert raised.value.code == 2
    assert "'invoice' cannot name a sender" in capsys.readouterr().err


def test_each_resource_of_the_broker_names_the_cluster_and_has_a_name_that_kubernetes_takes() -> None:
    seen: set[tuple[str, str]] = set()
    for one in (*render("example/platform"),):
        name = one["metadata"]["name"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name), name
        assert len(name) <= 253
        assert (one["kind"], name) not in seen
        seen.add((one["kind"], name))
        if one["apiVersion"].startswith("rabbitmq.com") and one["kind"] != "RabbitmqCluster":
            assert one["spec"]["rabbitmqClusterReference"] == {"name": "remit-rabbitmq"}, name


def test_users_may_do_what_the_table_says() -> None:
    table_of = {user.name: user for user in broker_users()}
    permissions = of_kind("Permission", "platform")
    made = of_kind("User", "platform")
    assert made.keys() == permissions.keys() == {dns_name(name) for name in (*table_of, SCALER.name)}
    for name, user in table_of.items():
        assert permissions[dns_name(name)]["spec"]["permissions"] == user.patterns()
        assert made[dns_name(name)]["spec"]["tags"] == []
        assert drawn()[made[dns_name(name)]["spec"]["importCredentialsSecret"]["name"]] == name
    scaler = dns_name(SCALER.name)
    assert made[scaler]["spec"]["tags"] == ["management"]
    assert set(permissions[scaler]["spec"]["permissions"].values()) == {"^$"}


def test_each_database_belongs_to_its_owner_and_each_role_has_its_secret() -> None:
    databases = of_kind("Database", "platform")
    assert {one["spec"]["name"]: one["spec"]["owner"] for one in databases.values()} == {
        service: owner(service) for service in SERVICES
    }
    roles = of_kind("Cluster", "platform")["remit-postgres"]["spec"]["managed"]["roles"]
    assert len({role["name"] for role in roles}) == len(roles)
    assert {role["name"]: drawn()[role["passwordSecret"]["name"]] for role in roles} == {role: role for role in ROLES}
    assert {role["name"] for role in roles if not role["login"]} == {PURGE}


def test_what_holds_data_is_kept_when_its_resource_is_deleted() -> None:
    assert {one["spec"]["deletionPolicy"] for one in of_kind("Queue", "platform").values()} == {"retain"}
    assert {one["spec"]["databaseReclaimPolicy"] for one in of_kind("Database", "platform").values()} == {"retain"}
