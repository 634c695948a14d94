"""Recovery a second time: messages are delivered again, processes are killed and started, events are folded again; nothing changes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from deploy.local.stack import SERVICES
from shared.messaging.topology import WORK_QUEUES
from tests.faults.recovery import QUEUES_OF, SERVICE_WITHIN_S, recovery_s
from tests.faults.tap import REMEMBERED_MAX, ids_of
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.faults.workload import LATE_SUCCESS, MIX
from tests.support.databases import execute

FAMILY: Final = "again"

Repeat = Callable[[Testbed], Awaitable[int]]


async def messages(testbed: Testbed) -> int:
    """Deliver the last messages of every queue again, byte for byte."""
    return sum([await testbed.tap.echo(queue.name, count=REMEMBERED_MAX) for queue in WORK_QUEUES])


async def forgotten(testbed: Testbed) -> int:
    """Delete the last messages' ids from the inboxes, as after their retention, and deliver the messages again."""
    count = 0
    for service, queues in QUEUES_OF.items():
        chosen = {
            queue: testbed.tap.last(queue) for queue in queues
        }  # copied first: messages published again meanwhile must not push the deleted ones out of the list
        ids = [id_ for messages_ in chosen.values() for id_ in ids_of(messages_)]
        await execute(testbed.database(service), "DELETE FROM inbox WHERE message_id = ANY($1::uuid[])", ids)
        count += sum([await testbed.tap.send_again(queue, messages_) for queue, messages_ in chosen.items()])
    return count


async def restarts(testbed: Testbed) -> int:
    """kill -9 of all services at once."""
    for service in SERVICES:
        await testbed.kill(service)
    for service in SERVICES:
        await testbed.start(service)
    return len(SERVICES)


async def rebuilds(testbed: Testbed) -> int:
    """Run `remit rebuild`, which folds the events again."""
    done = await (await testbed.remit("rebuild")).result()
    if done.code != 0:
        raise AssertionError(f"rebuild found differences: {done.stdout}{done.stderr}")
    return 1


def _run(*steps: Repeat) -> Callable[[Testbed, Note], Awaitable[None]]:
    async def run(testbed: Testbed, note: Note) -> None:
        testbed.play(*MIX, LATE_SUCCESS)
        await testbed.until_drained()
        await testbed.take_baseline()
        testbed.thorough = True
        for step in steps:
            note.fired(await step(testbed))
        note.mended()
        if restarts in steps:
            note.recovered(await recovery_s(testbed), within_s=SERVICE_WITHIN_S)

    return run


def trials() -> Sequence[Trial]:
    """Each way alone, then all one after the other."""
    ways: dict[str, tuple[Repeat, ...]] = {
        "messages": (messages,),
        "forgotten": (forgotten,),
        "restarts": (restarts,),
        "rebuild": (rebuilds,),
        "everything-twice": (messages, restarts, rebuilds) * 2,
    }
    return [
        Trial(
            name=f"{FAMILY}/{name}",
            family=FAMILY,
            injects=" ".join(dict.fromkeys(str(step.__doc__) for step in steps)),
            run=_run(*steps),
            estimate_s=25,
            touches=frozenset(SERVICES),
            short=name == "everything-twice",
            quiet=True,
        )
        for name, steps in ways.items()
    ]
