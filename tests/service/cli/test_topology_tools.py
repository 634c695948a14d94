"""`remit topology limits` and `prune --connections` on a real broker; `remit version`; what a shell completes."""

import asyncio
import contextlib
import json
import shlex
from pathlib import Path

import pytest
from aiormq.exceptions import DeliveryError

from deploy.local.stack import Stack
from shared.amqp.broker_link import BrokerLink
from shared.build import this_build
from shared.messaging.apply import apply_topology
from tests.service.cli.remit import remit

QUEUE = "saga.events"
BODY = bytes(60_000)


async def publish_until_refused(stack: Stack, at_most: int) -> int:
    """How many messages the queue took."""
    link = BrokerLink(stack.rabbitmq_url, name="test")
    taken = 0
    try:
        channel = await link.channel(confirms=True)
        with contextlib.suppress(DeliveryError):
            while taken < at_most:
                await channel.basic_publish(BODY, routing_key=QUEUE, timeout=10)
                taken += 1
    finally:
        await link.close()
    return taken


async def test_a_limit_is_lowered_and_taken_away_on_a_running_broker(empty_vhost: Stack) -> None:
    if empty_vhost.kind == "given":
        pytest.skip("a given broker is not ours to set policies on")
    await apply_topology(empty_vhost.rabbitmq_url)
    for options, taken in ((["--bytes", "64KiB"], range(1, 5)), ([], range(10, 11))):
        printed = await remit("topology", "limits", QUEUE, "--vhost", empty_vhost.vhost, *options)
        (words,) = [shlex.split(line) for line in printed.out.splitlines()]
        assert words[0] == "rabbitmqctl"
        await asyncio.to_thread(empty_vhost.broker.ctl, *words[1:])
        assert await publish_until_refused(empty_vhost, 10) in taken
        assert (await remit("topology", "check", RABBITMQ_URL=empty_vhost.rabbitmq_url)).code == 0


async def test_limits_that_would_have_no_effect_are_refused() -> None:
    high = await remit("topology", "limits", QUEUE, "--bytes", "5GiB")
    unknown = await remit("topology", "limits", "saga.evnts")
    assert (high.code, high.err) == (
        2,
        f"remit: {QUEUE} was made for at most 4294967296 bytes, and a policy can only set fewer.\n",
    )
    assert (unknown.code, "saga.evnts is no queue of Remit. There are: invoice.commands, " in unknown.err) == (2, True)


@pytest.mark.parametrize(
    ("argument", "value", "sentence"),
    [
        ("x-max-length-bytes", 8 << 30, "until `remit topology limits` has lowered it by a policy"),
        ("x-delivery-limit", 5, "can be lowered, not raised: drain it, delete it, and apply again"),
    ],
)
async def test_check_says_which_way_a_limit_differs(
    empty_vhost: Stack, argument: str, value: int, sentence: str
) -> None:
    from shared.messaging.topology import QUEUES

    (queue,) = [one for one in QUEUES if one.name == QUEUE]
    link = BrokerLink(empty_vhost.rabbitmq_url, name="test")
    channel = await link.channel(confirms=False)
    await channel.queue_declare(QUEUE, durable=True, arguments={**queue.arguments, argument: value})
    await link.close()
    checked = await remit("topology", "check", "--json", RABBITMQ_URL=empty_vhost.rabbitmq_url)
    (differs,) = [one for one in checked.json["problems"] if one.startswith(f"queue {QUEUE} has other settings")]
    assert differs.endswith(sentence)


async def test_nothing_is_pruned_while_another_build_is_connected(empty_vhost: Stack, tmp_path: Path) -> None:
    url = empty_vhost.rabbitmq_url
    await apply_topology(url)
    link = BrokerLink(url, name=f"invoice {QUEUE}")
    await link.channel(confirms=False)
    printed = await asyncio.to_thread(
        empty_vhost.broker.ctl, "list_connections", "client_properties", "--formatter", "json"
    )
    await link.close()
    file = tmp_path / "connections.json"
    file.write_text(printed)
    same = await remit("topology", "prune", "--connections", str(file), RABBITMQ_URL=url)
    assert f'"{this_build().revision}"' in printed
    file.write_text(printed.replace(f'"{this_build().revision}"', '"abc"'))
    other = await remit("topology", "prune", "--connections", str(file), RABBITMQ_URL=url)
    file.write_text(json.dumps([{"client_properties": [["connection_name", "longstr", "saga inside"]]}]))
    earlier = await remit("topology", "prune", "--connections", "-", RABBITMQ_URL=url, stdin=file.read_text())
    file.write_text("Listing connections ...")
    rubbish = await remit("topology", "prune", "--connections", str(file), RABBITMQ_URL=url)
    unseen = await remit("topology", "prune", RABBITMQ_URL=url)
    assert (same.code, same.err) == (0, "")
    assert (other.code, f"invoice ({this_build().version}, revision abc)" in other.err) == (1, True)
    assert (earlier.code, "saga (an earlier build)" in earlier.err) == (1, True)
    assert (rubbish.code, "is not what `rabbitmqctl list_connections" in rubbish.err) == (2, True)
    assert (unseen.code, "Which builds are connected was not seen" in unseen.err) == (0, True)


async def test_version_tells_build_and_libraries() -> None:
    told = (await remit("version", "--json")).json
    assert (told["version"], told["revision"]) == (this_build().version, this_build().revision)
    assert told["libraries"]["asyncpg"]
    assert (await remit("version")).out.startswith(f"remit {told['version']}, revision {told['revision']}, Python 3.")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("remit pay", "payments"), ("remit payments reo", "reopen"), ("remit dead-letters list --sta", "--status"),
     ("remit invoice list --status pai", "paid")],
)  # fmt: skip
async def test_a_shell_completes_commands_options_and_values(typed: str, offered: str) -> None:
    for shell, variables in (
        ("bash", {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": typed}),
    ):
        asked = await remit(_REMIT_COMPLETE=f"complete_{shell}", environment=None, stdin="", **variables)
        assert offered in asked.out
        script = await remit("completion", shell)
        assert (script.code, "_REMIT_COMPLETE=complete_" in script.out) == (0, True)
