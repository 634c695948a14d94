"""What the doctor makes of what it sees: versions, clocks, certificates, and the answers of `rabbitmqctl`."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from deploy.doctor import broker, certificates, databases, node, run
from deploy.doctor.diagnosis import Condition, broken, is_healthy, look, unseen, well
from deploy.permissions.broker import AUDIT, SETUP, broker_users
from services.audit.queues import QueueState
from shared.build import this_build
from shared.messaging.topology import QUEUES
from tests.support.authority import Authority, Certificate

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
WELL, LOOK, BROKEN, UNSEEN = Condition.WELL, Condition.LOOK, Condition.BROKEN, Condition.UNSEEN


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("3.9.29", BROKEN),
        ("3.10.8", WELL),
        ("3.13.7", WELL),
        ("4.0.5", WELL),
        ("4.2", WELL),
        ("5.0.0", LOOK),
        ("", LOOK),
    ],
    ids=["too old", "Debian 12", "3.13", "Debian 13", "4.2", "too new", "none"],
)
def test_versions_of_the_broker(text: str, condition: Condition) -> None:
    assert broker.judge_version(text).condition is condition


@pytest.mark.parametrize(
    ("name", "ready", "condition"),
    [
        ("saga.events", 0, BROKEN),
        ("saga.events", 5, BROKEN),
        ("staff.journal", 0, None),
        ("staff.journal", 5, LOOK),
        ("staff.heartbeats", 5, LOOK),
    ],
)
def test_a_queue_that_nobody_consumes_is_broken_unless_it_only_feeds_pages(
    name: str, ready: int, condition: Condition | None
) -> None:
    states: dict[str, QueueState | None] = {queue.name: QueueState(0, 1) for queue in QUEUES}
    found = broker._queues(states | {name: QueueState(ready, 0)})
    assert [one.condition for one in found if name in one.what] == ([] if condition is None else [condition])


@pytest.mark.parametrize(
    ("version", "condition"), [((3, 10), BROKEN), ((3, 11), WELL), ((3, 13), WELL), ((3, 14), LOOK)], ids=str
)
def test_versions_of_python(version: tuple[int, int], condition: Condition) -> None:
    assert run.judge_python(version).condition is condition


@pytest.mark.parametrize(
    ("number", "condition"), [(140_011, BROKEN), (150_004, WELL), (180_001, WELL), (190_000, LOOK)]
)
def test_versions_of_the_database(number: int, condition: Condition) -> None:
    assert databases._version("x", number).condition is condition


@pytest.mark.parametrize(
    ("skew_s", "condition"), [(0.0, WELL), (-1.9, WELL), (2.0, LOOK), (-59.0, LOOK), (60.0, BROKEN), (-90.0, BROKEN)]
)
def test_a_clock_that_is_wrong_is_named(skew_s: float, condition: Condition) -> None:
    judged = databases.judge_skew("x", skew_s)
    assert judged.condition is condition
    assert f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'}" in judged.says


@pytest.mark.parametrize(("days", "condition"), [(-1, BROKEN), (0, BROKEN), (1, LOOK), (20, LOOK), (22, WELL)])
def test_a_certificate_that_ends_soon_is_named(days: int, condition: Condition) -> None:
    assert certificates.judge_end("x", NOW + timedelta(days=days), NOW).condition is condition


async def test_only_urls_that_demand_tls_have_a_certificate() -> None:
    for url in ("amqp://h:1/", "postgresql://h:1/x", "postgresql://h:1/x?sslmode=prefer", "http://h:1"):
        assert await certificates.look_at_certificates("X", url, NOW) == []
    for url in ("amqps://127.0.0.1:1/", "postgresql://127.0.0.1:1/x?sslmode=verify-full", "https://127.0.0.1:1"):
        (away,) = await certificates.look_at_certificates("X", url, NOW)
        assert (away.what, away.condition) == ("certificate of X", UNSEEN)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@127.0.0.1:{},127.0.0.1:1/x?sslmode=require",
        "postgresql:///x?host=127.0.0.1,127.0.0.1&port={},1&sslmode=require",
    ],
    ids=["address", "parameters"],
)
async def test_each_of_several_hosts_shows_its_certificate(url: str, tmp_path: Path) -> None:
    expired = Authority.make(tmp_path, "ours").sign("server", until=NOW - timedelta(days=1))
    with speaking_tls(expired) as port:
        found = await certificates.look_at_certificates("X", url.format(port), NOW)
    assert [(one.what, one.condition) for one in found] == [
        (f"certificate of X at 127.0.0.1:{port}", BROKEN),
        ("certificate of X at 127.0.0.1:1", UNSEEN),
    ]


@contextmanager
def speaking_tls(certificate: Certificate) -> Iterator[int]:
    """A server that answers one client's SSLRequest as PostgreSQL does, and shows its certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)

    def serve() -> None:
        client, _ = server.accept()
        with client, suppress(OSError):
            client.recv(8, socket.MSG_WAITALL)
            client.sendall(b"S")
            context.wrap_socket(client, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = Thread(target=serve)
        serving.start()
        yield server.getsockname()[1]
        serving.join(10)


def test_what_is_broken_decides() -> None:
    assert is_healthy([well("a", "b"), look("a", "b", "c"), unseen("a", "b", "c")])
    assert not is_healthy([well("a", "b"), broken("a", "b", "c")])


# -- rabbitmqctl ---------------------------------------------------------------------------------------------------------------------------

BUILD = this_build().client_properties


def connection(name: str, properties: Mapping[str, str]) -> dict[str, Any]:
    return {
        "client_properties": [[key, "longstr", value] for key, value in {"connection_name": name, **properties}.items()]
    }


def answers(**changes: Any) -> node.Ctl:
    """A `rabbitmqctl` of a node on which all is well, but for `changes`."""
    given: dict[str, Any] = {
        "status": {"alarms": []},
        "list_permissions": [{"user": user.name, **user.patterns()} for user in broker_users(["shop"])],
        "list_users": [{"user": user.name, "tags": []} for user in broker_users(["shop"])],
        "list_connections": [connection("saga saga.events", BUILD), connection("somebody else", {})],
        "eval": NOW.timestamp() * 1_000,
    } | changes

    def ctl(command: str, *_: str) -> str:
        answer = given[command]
        return f"{answer:.0f}" if command == "eval" else answer if isinstance(answer, str) else json.dumps(answer)

    return ctl


def conditions(ctl: node.Ctl | None) -> list[tuple[str, Condition]]:
    return [(one.what, one.condition) for one in node.look_at_node(ctl, "/", ("invoice", "saga"), lambda: NOW)]


ALL_WELL = [("broker node", WELL), ("broker rights", WELL), ("builds", WELL), ("broker node", WELL)]


def test_a_node_on_which_all_is_well() -> None:
    assert conditions(answers()) == ALL_WELL


def wider(user: str, **rights: str) -> list[dict[str, str]]:
    rows = [{"user": one.name, **one.patterns()} for one in broker_users(["shop"])]
    return [row | rights if row["user"] == user else row for row in rows]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": {"alarms": [{"resource": "disk"}]}}, ("broker node", BROKEN)),
        ({"list_permissions": wider("saga", write=".*")}, ("broker rights", BROKEN)),
        ({"list_permissions": wider("shop", read=".*")}, ("broker rights", LOOK)),
        ({"list_permissions": wider("shop")[1:]}, ("broker rights", LOOK)),
        ({"list_users": [{"user": "saga", "tags": ["administrator"]}]}, ("broker rights", LOOK)),
        ({"list_connections": [connection("invoice inside", {})]}, ("builds", LOOK)),
        ({"eval": NOW.timestamp() * 1_000 - 5_000}, ("broker node", LOOK)),
        ({"status": "Error: ..."}, ("broker node", UNSEEN)),
    ],
    ids=["alarm", "a service's right", "a sender's right", "a user is missing", "a tag", "an earlier build", "clock", "rubbish"],
)  # fmt: skip
def test_each_trouble_of_a_node_is_named(changes: dict[str, Any], expected: tuple[str, Condition]) -> None:
    found = conditions(answers(**changes))
    assert [one for one in found if one not in ALL_WELL] == [expected]


def test_users_of_the_set_up_may_be_missing() -> None:
    rows = [row for row in wider("shop") if row["user"] not in {SETUP, AUDIT}]
    assert conditions(answers(list_permissions=rows)) == ALL_WELL


def test_without_rabbitmqctl_it_is_said_what_was_not_seen() -> None:
    assert conditions(None) == [("broker node", UNSEEN)]
    assert {condition for _, condition in conditions(node.runner("/no/such/program"))} == {UNSEEN}
