"""`remit topology limits`: the limits of queues, changed on a running system."""

import re
import shlex
from typing import Annotated, Final

import typer

from deploy.cli.output import MISUSED, Json, fail, write_json, write_line

_UNITS: Final = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def register(to: typer.Typer) -> None:
    """Add the command to `remit topology`."""
    to.command("limits")(limits)


def limits(
    queues: Annotated[
        list[str] | None, typer.Argument(metavar="QUEUE", help="Queues. Default: all.", show_default=False)
    ] = None,
    *,
    bytes_: Annotated[
        str | None, typer.Option("--bytes", help="Bytes of all messages in a queue: `512MiB`.", show_default=False)
    ] = None,
    deliveries: Annotated[
        int | None, typer.Option(min=1, help="Deliveries before a message is moved on.", show_default=False)
    ] = None,
    vhost: Annotated[str, typer.Option(help="The virtual host.")] = "/",
    json: Json = False,
) -> None:
    """Print the `rabbitmqctl` commands that set lower limits by policies: on a running system, and as often as you like.

    Each queue was made with limits, which are the highest that a policy can set: of the two the lower one counts. Without a limit, print
    the commands that take the policies away again.
    """
    from shared.messaging.topology import QUEUES  # noqa: PLC0415 - loads the contracts

    known = {queue.name: queue for queue in QUEUES}
    if unknown := sorted(set(queues or ()) - known.keys()):
        fail(f"{unknown[0]} is no queue of Remit. There are: {', '.join(known)}.", MISUSED)
    if not vhost.isprintable():
        raise typer.BadParameter("it has letters that cannot be shown", param_hint="--vhost")
    bytes_max = None if bytes_ is None else _bytes(bytes_)
    commands: list[str] = []
    policies: dict[str, dict[str, str | int]] = {}
    for queue in [known[name] for name in queues or known]:
        try:
            policy = queue.policy_of(bytes_max=bytes_max, delivery_limit=deliveries)
        except ValueError as error:
            fail(f"{error}.", MISUSED)
        policies[queue.name] = policy
        commands.append(_command(queue.name, policy, vhost))
    if json:
        write_json(policies)
    else:
        for command in commands:
            write_line(command)


def _command(queue: str, policy: dict[str, str | int], vhost: str) -> str:
    import orjson  # noqa: PLC0415 - `--help` need not pay

    where = f"--vhost {shlex.quote(vhost)}"
    if not policy:
        return f"rabbitmqctl clear_policy {where} {queue}"
    pattern, text = shlex.quote(f"^{queue.replace('.', '[.]')}$"), shlex.quote(orjson.dumps(policy).decode())
    return f"rabbitmqctl set_policy {where} {queue} {pattern} {text} --apply-to queues"


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})\s*([KMG]iB|)", text.strip(), re.IGNORECASE)
    if found is None or int(found[1]) == 0:
        fail("--bytes takes a number and a unit: 512MiB, 2GiB.", MISUSED)
    return int(found[1]) * _UNITS[found[2].upper()]
