"""The real processes run as the users and roles that are theirs: nobody but the set-up is an administrator."""

import asyncio

import pytest

from deploy.local.stack import SERVICES
from deploy.local.system import System
from tests.support.databases import rows
from tests.support.waiting import until

_SESSIONS = """SELECT DISTINCT application_name || ' ' || usename AS who FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'remit %'"""


async def test_every_service_runs_as_its_own_user_and_role(system: System) -> None:
    stack = system.stack
    if stack.kind == "given":
        pytest.skip("the users of given servers are not ours")

    async def connected() -> bool:
        listed = await asyncio.to_thread(
            stack.broker.ctl, "list_connections", "--silent", "--no-table-headers", "user", "vhost"
        )
        users = {
            user for user, _, where in (line.partition("\t") for line in listed.splitlines()) if where == stack.vhost
        }
        return users == set(SERVICES)

    await until(connected, what="connections of each service's user, and of no other")
    for service in SERVICES:
        sessions = await rows(stack.administrator_database_url(service), _SESSIONS)
        assert [session["who"] for session in sessions] == [f"remit {service} {service}"]
