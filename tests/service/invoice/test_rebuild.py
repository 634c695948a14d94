"""`remit rebuild`: the events are folded again, and must give the stored state."""

from services.invoice.rebuild import rebuild
from shared.clock import system_clock
from shared.persistence.database import Database
from tests.service.invoice.conftest import ISSUE, PAY, RECORD, in_conversation
from tests.support.databases import execute
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient


async def test_rebuild_accepts_the_stored_state_and_repairs_a_wrong_one(
    environment: Environment, upstream: UpstreamClient
) -> None:
    async with in_conversation(environment, upstream) as invoice:
        await invoice.given(ISSUE, PAY, RECORD)
    url = environment.databases["invoice"]
    database = await Database.open(url, name="test", connections_max=2)
    try:
        assert await rebuild(database, system_clock, repair=False) == (
            rebuilt := await rebuild(database, system_clock, repair=True)
        )
        assert (rebuilt.streams, rebuilt.differing) == (1, ())
        await execute(url, "UPDATE invoices SET status = 'open'")
        assert (await rebuild(database, system_clock, repair=True)).differing == ("INV-1",)
        assert (await rebuild(database, system_clock, repair=False)).differing == ()
    finally:
        await database.close()
