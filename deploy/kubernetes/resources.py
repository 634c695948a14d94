"""`python -m deploy.kubernetes.resources` writes what Kubernetes gets of things that are written down elsewhere.

`platform/topology.yaml` and `platform/users.yaml` are the registry (`shared.messaging.topology`) and the table of permissions
(`deploy.permissions.broker`), for RabbitMQ's Topology Operator; `services/alerts.yaml` are the rules of `deploy/prometheus`, for the
Prometheus operator. `make schema` writes them, and a test fails if they are not what their source says. With `--sender` or `--listener`
the resources of these users are printed instead.

Every queue is kept when its resource is deleted (`deletionPolicy: retain`): it holds messages.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from deploy.permissions.broker import BrokerUser, NameRefusedError, broker_users
from shared.messaging.topology import EXCHANGES, QUEUES, Binding, Exchange, Queue

Resource = dict[str, Any]

PLATFORM: Final = Path(__file__).parent / "platform"
ALERTS: Final = Path(__file__).parent / "services/alerts.yaml"
RULES: Final = Path(__file__).parents[1] / "prometheus/rules.yml"
VHOST: Final = "/"
SCALER: Final = BrokerUser("remit_scaler")
"""The user by which KEDA asks how long queues are. The tag `management` lets it ask, and without a permission it can do nothing else."""
_TAGS: Final[Mapping[str, list[str]]] = {SCALER.name: ["management"]}
_HEAD: Final = "# Written by `make schema` (deploy/kubernetes/resources.py), never by hand."


def dns_name(name: str) -> str:
    """The name of a resource of Kubernetes for a name of ours: it takes small letters, digits, `-` and dots."""
    return name.lower().replace("_", "-")


def topology() -> Iterator[Resource]:
    """Every exchange and queue, and every binding that the operator can make.

    It speaks to RabbitMQ's HTTP API, which takes no null in arguments. So the binding for `x-death`, a header with any value, is left to
    the Job: `remit topology apply` makes it before the services start.
    """
    for exchange in EXCHANGES:
        yield _resource("Exchange", exchange.name, _exchange(exchange))
    for queue in QUEUES:
        yield _resource("Queue", queue.name, _queue(queue))
    for kind, owners in (("exchange", EXCHANGES), ("queue", QUEUES)):
        for owner in owners:
            for binding in owner.bindings:
                if None not in binding.arguments.values():
                    yield _binding(binding, kind, owner.name)


def users(senders: Iterable[str] = (), listeners: Iterable[str] = (), *, upgrading: bool = False) -> Iterator[Resource]:
    """Every user with what it may do. Raises `NameRefusedError` for a sender or listener."""
    for user in (*broker_users(senders, listeners, upgrading=upgrading), SCALER):
        secret = {"importCredentialsSecret": {"name": dns_name(f"rabbitmq-{user.name}")}}
        yield _resource("User", user.name, {"tags": _TAGS.get(user.name, []), **secret})
        spec = {"vhost": VHOST, "userReference": {"name": dns_name(user.name)}, "permissions": user.patterns()}
        yield _resource("Permission", user.name, spec)


def text_of(resources: Iterable[Resource]) -> str:
    """The resources as YAML. JSON is YAML, so each field is one line."""
    return "\n---\n".join((_HEAD, *map(_document, resources))) + "\n"


def _document(resource: Resource) -> str:
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in resource.items())


def alerts() -> str:
    """The alert rules as YAML, comments included: a `PrometheusRule` holds in `spec` what Prometheus reads as a file."""
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "remit"}}
    return "\n".join((_HEAD, _document(rule), "spec:", textwrap.indent(RULES.read_text(encoding="utf-8"), "  ")))


def _resource(kind: str, name: str, spec: Mapping[str, object]) -> Resource:
    """`platform/kustomization.yaml` adds the cluster, which is the same for all."""
    return {
        "apiVersion": "rabbitmq.com/v1beta1",
        "kind": kind,
        "metadata": {"name": dns_name(name)},
        "spec": dict(spec),
    }


def _exchange(exchange: Exchange) -> dict[str, object]:
    arguments = {"arguments": exchange.arguments} if exchange.arguments else {}
    return {"name": exchange.name, "type": exchange.type, "durable": True, **arguments}


def _queue(queue: Queue) -> dict[str, object]:
    arguments = dict(queue.arguments)
    kind = arguments.pop("x-queue-type")
    kept = {"durable": True, "autoDelete": False, "deletionPolicy": "retain"}
    return {"name": queue.name, "type": kind, **kept, "arguments": arguments}


def _binding(binding: Binding, kind: str, name: str) -> Resource:
    spec = {
        "source": binding.exchange,
        "destination": name,
        "destinationType": kind,
        "routingKey": binding.routing_key,
        **({"arguments": binding.arguments} if binding.arguments else {}),
    }
    parts = (kind, name, "from", binding.exchange, binding.routing_key)
    return _resource("Binding", "-".join(part for part in parts if part), spec)


def main() -> None:
    """Write all files, or print the users that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.kubernetes.resources", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--sender", action="append", default=[], metavar="NAME", help="print this sender's user; may be repeated"
    )
    parser.add_argument("--listener", action="append", default=[], metavar="NAME", help="likewise, a listener's")
    parser.add_argument(
        "--upgrading", action="store_true", help="print all users, with what the build before needs as well"
    )
    chosen = parser.parse_args()
    if not (chosen.sender or chosen.listener or chosen.upgrading):
        (PLATFORM / "topology.yaml").write_text(text_of(topology()), encoding="utf-8")
        (PLATFORM / "users.yaml").write_text(text_of(users()), encoding="utf-8")
        ALERTS.write_text(alerts(), encoding="utf-8")
        return
    try:
        named = list(users(chosen.sender, chosen.listener, upgrading=chosen.upgrading))
    except NameRefusedError as error:
        parser.error(str(error))
    ours = [] if chosen.upgrading else list(users())
    sys.stdout.write(text_of(one for one in named if one not in ours))


if __name__ == "__main__":
    main()
