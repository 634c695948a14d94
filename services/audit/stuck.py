"""Checks that every queue drains: what is in it reaches a consumer, or leaves as a dead letter."""

from services.audit.finding import Source, Tally
from services.audit.stores import Stores

ASK_THE_BROKER = "rabbitmqctl list_queues name messages messages_ready messages_unacknowledged --formatter json"


async def queues_drain(counted: Tally, stores: Stores) -> None:
    """No queue keeps a message for ever, although it is consumed."""
    for name, queue in (stores.queues or {}).items():
        counted.look()
        if stores.drained and queue is not None and queue.ready and queue.consumers:
            counted.breach(name, f"{queue.ready} messages are ready, and its {queue.consumers} consumers get none")
    stuck = stores.evidence.stuck
    if stuck is None:
        counted.missing(
            f"messages that the broker cannot dead-letter: AMQP does not tell of them (give --unacked what `{ASK_THE_BROKER}` prints)",
            Source.UNACKED,
        )
        return
    for name in stuck:
        counted.look()
        if stuck[name]:
            counted.breach(
                name,
                f"{stuck[name]} messages are neither ready nor with a consumer: the broker cannot dead-letter them (a forged x-death?)",
            )
