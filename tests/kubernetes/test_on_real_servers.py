"""What the manifests say, held against a real broker and a real database server.

No cluster is at hand, so what RabbitMQ's operator does is done here as it does it: with the JSON that RabbitMQ itself takes.
"""

import json
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from deploy.kubernetes import resources
from deploy.local.stack import Stack
from deploy.permissions.broker import SETUP
from deploy.permissions.databases import AUDIT, PURGE
from services.payment_gateway import store
from shared.messaging.apply import apply_topology, check_topology
from shared.messaging.topology import SUSPECT_COMMANDS
from shared.persistence.database import Database
from tests.kubernetes.manifests import Resource, of_kind, render
from tests.support.environment import Environment
from tests.support.programs import INSTALLED_WITHIN_S

pytestmark = pytest.mark.timeout(INSTALLED_WITHIN_S)


def _definitions(found: tuple[Resource, ...], vhost: str) -> dict[str, list[dict[str, Any]]]:
    """The resources in RabbitMQ's own words."""
    made: dict[str, list[dict[str, Any]]] = {"exchanges": [], "queues": [], "bindings": []}
    for one in found:
        spec = {"vhost": vhost, "arguments": {}, **one.get("spec", {})}
        match one["kind"]:
            case "Exchange":
                made["exchanges"].append({**_chosen(spec, "name", "vhost", "type", "durable", "arguments"), **_PLAIN})
            case "Queue":
                arguments = {**spec["arguments"], "x-queue-type": spec["type"]}
                queue = {"auto_delete": spec["autoDelete"], **_chosen(spec, "name", "vhost", "durable")}
                made["queues"].append({**queue, "arguments": arguments})
            case "Binding":
                binding = {"destination_type": spec["destinationType"], "routing_key": spec["routingKey"]}
                made["bindings"].append({**binding, **_chosen(spec, "vhost", "source", "destination", "arguments")})
            case _:
                pass  # nothing of the topology
    return made


_PLAIN = {"auto_delete": False, "internal": False}


def _chosen(spec: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: spec[name] for name in names}


def _topologies(stack: Stack, *vhosts: str) -> list[list[list[dict[str, Any]]]]:
    """All exchanges, queues and bindings of these virtual hosts, in an order of their own. Starting rabbitmqctl takes longest."""
    there = json.loads(stack.broker.ctl("--silent", "export_definitions", "-", "--format", "json"))
    return [
        [
            sorted(({**one, "vhost": ""} for one in there[kind] if one["vhost"] == vhost), key=json.dumps)
            for kind in ("exchanges", "queues", "bindings")
        ]
        for vhost in vhosts
    ]


async def test_the_topology_is_the_one_that_apply_makes(stack: Stack, empty_vhost: Stack) -> None:
    """The Job's `remit topology apply` adds the one binding that the operator cannot make, and finds nothing that differs."""
    await apply_topology(empty_vhost.rabbitmq_url_of(SETUP))
    twin = f"{empty_vhost.vhost}_twin"
    by_operator = replace(stack, rabbitmq_url=stack.create_vhost(twin)).rabbitmq_url_of(SETUP)
    stack.broker.import_definitions(json.dumps(_definitions(render("platform"), twin)))

    (*whole, bindings), (*made, bound) = _topologies(stack, empty_vhost.vhost, twin)
    assert whole[1], "no queue was listed"
    assert made == whole
    assert [one for one in bound if one not in bindings] == []
    assert [one["destination"] for one in bindings if one not in bound] == [SUSPECT_COMMANDS]
    assert await check_topology(by_operator) == []
    await apply_topology(by_operator)
    assert _topologies(stack, twin) == [[*whole, bindings]]


async def test_the_roles_are_those_that_permissions_make(stack: Stack) -> None:
    declared = {
        role["name"]: (role["login"] or role["name"] == PURGE, set(role.get("inRoles", ())))
        for role in of_kind("Cluster", "platform")["remit-postgres"]["spec"]["managed"]["roles"]
    }
    connection = await asyncpg.connect(stack.postgres_url, timeout=10)
    try:
        rows = await connection.fetch(
            """SELECT rolname, rolcanlogin, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS more,
                      ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid) AS groups
               FROM pg_roles r WHERE rolname = ANY($1)""",
            list(declared),
        )
    finally:
        await connection.close()
    assert {row["rolname"]: (row["rolcanlogin"], set(row["groups"])) for row in rows} == declared
    assert not [row["rolname"] for row in rows if row["more"]]
    allowed = {"name", "login", "passwordSecret", "inRoles"}
    roles = of_kind("Cluster", "platform")["remit-postgres"]["spec"]["managed"]["roles"]
    assert not [role["name"] for role in roles if role.keys() - allowed]


async def test_the_scaler_counts_what_the_service_counts(environment: Environment) -> None:
    trigger = of_kind("ScaledObject", "services")["payment-gateway"]["spec"]["triggers"][0]
    own = environment.databases["payment_gateway"]
    for_scaler = environment.stack.database_url_of("payment_gateway", AUDIT)
    connection = await asyncpg.connect(own, timeout=10)
    try:
        await connection.execute(
            """INSERT INTO payments (payment_id, invoice_id, status, version, was_case, rung, key_number, cause_id, correlation_id, fence,
                                     due_at)
               SELECT gen_random_uuid(), 'INV', 'requested', 1, false, 0, 0, gen_random_uuid(), 'c', 0, now() + n * interval '1 minute'
               FROM unnest(ARRAY[-2, -1, 1]) n"""
        )
    finally:
        await connection.close()
    database = await Database.open(own, name="test", connections_max=1)
    scaler = await asyncpg.connect(for_scaler, timeout=10)
    try:
        async with database.connection() as counting:
            counted = await counting.fetchval(store.DUE.statement, *store.DUE.arguments)
        assert await scaler.fetchval(trigger["metadata"]["query"]) == counted == 2
    finally:
        await scaler.close()
        await database.close()


def test_the_virtual_host_is_the_one_of_the_permissions() -> None:
    assert {one["spec"]["vhost"] for one in of_kind("Permission", "platform").values()} == {resources.VHOST}
    named = [
        one for one in render("platform") if one["kind"] in {"Exchange", "Queue", "Binding"} and "vhost" in one["spec"]
    ]
    assert named == []  # the default of the operator is `/`
