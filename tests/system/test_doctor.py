"""`remit doctor` on the real system: all is well, a canary is paid; then something is broken, and it is named with what to type."""

import asyncio
import json
from typing import Any

from deploy.local import system as local
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.system import System
from deploy.permissions.databases import AUDIT
from shared.amqp.broker_link import BrokerLink
from shared.messaging.topology import QUEUES, UNREADABLE_DEAD_LETTERS
from tests.support.databases import execute
from tests.support.waiting import until


def examined(system: System, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and what was found, by its condition. It reads the databases as the audit does, and sends as a sender."""
    databases = {k: v for k, v in system.stack.environment_of(AUDIT).items() if k != "RABBITMQ_URL"}
    done = local.remit(system, "doctor", "--json", *options, variables=databases)
    assert done.stdout, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads(done.stdout)["found"]:
        found.setdefault(one["condition"], []).append(one)
    return done.returncode, found


async def _wait_for_consumers(system: System) -> None:
    """Wait until the broker has a consumer of each queue: the test before may have ended a service that is only now coming back."""
    consumed = [queue.name for queue in QUEUES if queue.name != UNREADABLE_DEAD_LETTERS]
    link = BrokerLink(system.stack.rabbitmq_url, name="test")
    try:
        channel = await link.channel(confirms=False)

        async def are_consumed() -> bool:
            declared = [await channel.queue_declare(name, passive=True, timeout=10) for name in consumed]
            return all(queue.consumer_count for queue in declared)

        await until(are_consumed, what="consumers")
    finally:
        await link.close()


async def test_a_healthy_system_pays_a_canary_and_a_broken_one_says_what_to_type(system: System) -> None:
    await _wait_for_consumers(system)
    broker = system.stack.broker
    how = ("--rabbitmqctl", str(broker.control_program)) if isinstance(broker, PrivateRabbit) else ()
    code, found = await asyncio.to_thread(examined, system, "--canary", *how)
    assert code == 0, found.get("broken")
    assert "broken" not in found
    assert {"canary", "queues", "build", "saga database", "broker"} <= {one["what"] for one in found["well"]}
    seen = {one["what"] for one in found["not seen"]}
    assert seen <= {"topology", "gateway", "broker node", "desk", "door"}, (
        "the sender may not declare queues, and has no key of the gateway"
    )
    if system.stack.kind == "given":
        return
    administrator = system.stack.administrator_database_url("saga")
    system.fleet.stop("staff")
    await execute(
        administrator,
        "REVOKE INSERT ON transitions FROM saga; GRANT DELETE ON sagas TO remit_audit; GRANT saga_owner TO saga; ALTER ROLE saga BYPASSRLS",
    )
    try:
        code, found = await asyncio.to_thread(examined, system)
    finally:
        await execute(
            administrator,
            "GRANT INSERT ON transitions TO saga; REVOKE DELETE ON sagas FROM remit_audit; "
            "REVOKE saga_owner FROM saga; ALTER ROLE saga NOBYPASSRLS",
        )
    told = {(one["what"], one["says"], one["do"]) for one in [*found["broken"], *found["look"]]}
    assert code == 1
    assert ("queue staff.cases", "Nobody consumes it, and 0 messages wait.", "remit run staff") in told
    rights = "remit permissions apply saga"
    assert ("saga database", "Rights are missing: saga INSERT transitions.", rights) in told
    assert ("saga database", "Rights go beyond need: remit_audit DELETE sagas.", rights) in told
    more = "Roles are more than they should be: saga BYPASSRLS, saga MEMBER of saga_owner."
    assert ("saga database", more, "take it from them, by ALTER or REVOKE") in told
