"""Line 9, as far as tables and queues tell: nothing is left over. (What each queue was given is gone when it was handled.)"""

from deploy.audit.finding import Finding, Tally
from deploy.audit.stores import DATABASES, Stores
from deploy.audit.titles import needs, tally

_COUNT = "SELECT count(*) FROM outbox"
_LEFT = "SELECT id, type, exchange, created_at FROM outbox ORDER BY created_at, id"


async def line_9(stores: Stores) -> Finding:
    """Outbox empty once drained; so are the queues."""
    counted = tally(9, stores)
    needs(counted, stores, *DATABASES)
    for name, database in stores.databases.items():
        counted.look(1 + await database.value(_COUNT))
        async for row in database.rows(_LEFT):
            counted.breach(row["id"], f"{row['type']} is in the outbox of {name}", since=row["created_at"])
    _queues(counted, stores)
    return counted.finding()


def _queues(counted: Tally, stores: Stores) -> None:
    if stores.queues is None:
        counted.missing("RABBITMQ_URL is not set")
        return
    for queue, ready in stores.queues.items():
        counted.look()
        if ready and stores.drained:
            counted.breach(queue, f"{ready} messages are in the queue")
        elif ready:
            counted.in_flight()
