"""A cluster of three RabbitMQ nodes loses a queue's leader under load, or is cut off from it: the others elect another, and go on."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from deploy.local.rabbitmq import PrivateRabbit, open_cluster
from deploy.local.stack import Service, Stack, open_stack
from shared.messaging.topology import QUEUE_NAMES
from tests.faults.frames import Plain
from tests.faults.proxy import open_network
from tests.faults.recovery import SERVER_WITHIN_S
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial

FAMILY: Final = "cluster"
NODES: Final = 3
ROUNDS: Final = 3
WATCHED: Final = "saga.events"
PASSED_BY_ALL: Final[tuple[Service, ...]] = ("invoice", "payment_gateway", "saga")
REJOINED_WITHIN_S: Final = 120.0
"""How long a killed node may take to rejoin: it starts in seven seconds on an idle machine, and then reads what it missed."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A `Broker` that consists of several nodes."""

    nodes: Sequence[PrivateRabbit]

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def ctl(self, *arguments: str) -> str:
        return self.nodes[0].ctl(*arguments)

    def import_definitions(self, definitions: str) -> None:
        self.nodes[0].import_definitions(definitions)


@contextmanager
def open_clustered_stack(*, say: Callable[[str], None]) -> Iterator[Stack]:
    """A stack whose broker is a cluster. Services and senders reach it at one address, as behind a load balancer. (The stack's own single
    node idles beside it.)"""
    with open_stack(say=say) as stack, open_cluster(nodes=NODES, say=say) as nodes, open_network() as network:
        front = network.stand_before(*(node.url for node in nodes), speaks=Plain)
        clustered = replace(stack, rabbitmq_url=front.url, broker=Cluster(nodes))
        clustered.permit()
        yield clustered


async def _leader_killed(testbed: Testbed, note: Note) -> None:
    """Kill the leader again and again, so also a node that was killed before and came back."""
    cluster = testbed.system.stack.broker
    assert isinstance(cluster, Cluster)
    testbed.play()
    await testbed.until_under_load()
    for number in range(1, ROUNDS + 1):
        await _until_all_online(testbed, cluster)
        testbed.play()
        leader = _leader(cluster.nodes)
        survivors = [node for node in cluster.nodes if node is not leader]
        await asyncio.to_thread(leader.kill)
        took_s = await _goes_on(testbed, note, survivors)
        note.remark(f"round {number}: {leader.name} killed; all handle messages again within {took_s:.1f} s")
        await asyncio.to_thread(leader.start)
    note.mended()
    await _until_all_online(testbed, cluster)
    testbed.play()


async def _node_cut_off(testbed: Testbed, note: Note) -> None:
    """Let a node and the others refuse each other, while clients reach them all. It is the node that all clients are connected to, because
    the proxy gives them the first one that accepts.

    The broker pauses a minority, as `deploy/kubernetes` has it: a node that is cut off closes its connections, so its clients go to the
    others. Without that setting they would stay, and wait.
    """
    cluster = testbed.system.stack.broker
    assert isinstance(cluster, Cluster)
    for node in cluster.nodes:
        node.ctl("eval", "application:set_env(rabbit, cluster_partition_handling, pause_minority).")
    testbed.play()
    await testbed.until_under_load()
    await _until_all_online(testbed, cluster)
    testbed.play()
    node, *others = cluster.nodes
    await asyncio.to_thread(_cut_off, node, others)
    took_s = await _goes_on(testbed, note, others)
    note.remark(f"{node.name} cut off; all handle messages again within {took_s:.1f} s")
    await asyncio.to_thread(_join_again, node, others)
    note.mended()
    await _until_all_online(testbed, Cluster(others))
    testbed.play()


def _cut_off(node: PrivateRabbit, others: Sequence[PrivateRabbit]) -> None:
    """Erlang's nodes talk only to nodes that know their cookie. All at once: as long as a node reaches one of two, all may pause."""
    names = ", ".join(f"'{other.name}'" for other in others)
    node.ctl(
        "eval", f"[erlang:set_cookie(N, cut_off) || N <- [{names}]], [erlang:disconnect_node(N) || N <- [{names}]]."
    )


def _join_again(node: PrivateRabbit, others: Sequence[PrivateRabbit]) -> None:
    for other in others:
        node.ctl("eval", f"erlang:set_cookie('{other.name}', erlang:get_cookie()).")


async def _goes_on(testbed: Testbed, note: Note, survivors: Sequence[PrivateRabbit]) -> float:
    """Wait until every queue has a leader among the survivors and every service handles messages. Returns how many seconds that took."""
    since = time.time()
    note.fired()
    testbed.play()
    await testbed.until(lambda: _led(survivors), what="another leader")
    took_s = await _handled_again(testbed, since)
    note.recovered(took_s, within_s=SERVER_WITHIN_S)
    return took_s


async def _handled_again(testbed: Testbed, since: float) -> float:
    """The time at which the last service on the way of every payment has handled a message again."""
    moments: list[float] = []
    for service in PASSED_BY_ALL:

        async def handled(service: Service = service) -> bool:
            at = await testbed.handled_after(service, since)
            if at is not None:
                moments.append(at)
            return at is not None

        await testbed.until(handled, what=f"{service} handles a message again")
    return max(moments) - since


def _leader(nodes: Sequence[PrivateRabbit]) -> PrivateRabbit:
    leads = _listed(nodes[0], "leader")[WATCHED]
    return next(node for node in nodes if node.name == leads)


async def _led(survivors: Sequence[PrivateRabbit]) -> bool:
    """Whether every queue has a leader among these nodes."""
    leaders = await asyncio.to_thread(_listed, survivors[0], "leader")
    names = {node.name for node in survivors}
    return all(leaders.get(queue) in names for queue in QUEUE_NAMES)


async def _until_all_online(testbed: Testbed, cluster: Cluster) -> None:
    """Wait until every queue has all its replicas again, so that another loss leaves a majority."""

    async def online() -> bool:
        members = await asyncio.to_thread(_listed, cluster.nodes[0], "online")
        return all(members.get(queue, "").count("@") == NODES for queue in QUEUE_NAMES)

    await testbed.until(online, what="all replicas online", within_s=REJOINED_WITHIN_S)


def _listed(node: PrivateRabbit, column: str) -> dict[str, str]:
    """A column of the node's list of queues, by queue."""
    lines = node.ctl("--silent", "list_queues", "name", column).splitlines()
    return {name: value for name, _, value in (line.partition("\t") for line in lines)}


def trials() -> Sequence[Trial]:
    """The first is of several rounds, because opening a cluster takes longer than killing its leader."""
    return [
        Trial(
            f"{FAMILY}/leader:killed",
            FAMILY,
            f"kill -9 of the node that leads {WATCHED}, in a cluster of {NODES}, {ROUNDS} times",
            _leader_killed,
            estimate_s=90.0,
            alone=True,
            opens=open_clustered_stack,
        ),
        Trial(
            f"{FAMILY}/node:cut_off",
            FAMILY,
            f"the node that clients are connected to and the other {NODES - 1} cannot reach each other, while clients reach all",
            _node_cut_off,
            estimate_s=90.0,
            alone=True,
            opens=open_clustered_stack,
        ),
    ]
