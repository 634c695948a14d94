"""The doctor's look at what only `rabbitmqctl` tells: alarms, rights, the builds that are connected, the node's clock."""

import re
import shlex
import subprocess
from collections.abc import Callable
from typing import Any, Final

import orjson

from deploy.cli.builds import builds_in, others
from deploy.doctor.databases import judge_skew
from deploy.doctor.diagnosis import Diagnosis, broken, look, unseen, well
from deploy.permissions.broker import AUDIT, SETUP, BrokerUser, broker_users
from shared.clock import Clock

TIMEOUT_S: Final = 60.0
"""Of one call: it takes a second or two, since it starts a runtime of its own."""
_NOTHING: Final = {"", "^$"}

Ctl = Callable[..., str]


class NodeError(Exception):
    """`rabbitmqctl` could not be run, or did not answer. The text is one sentence."""


def runner(command: str) -> Ctl:
    """Calls `rabbitmqctl` by this command, such as `sudo rabbitmqctl` or `docker exec broker rabbitmqctl`."""
    words = shlex.split(command)

    def ctl(*arguments: str) -> str:
        try:
            done = subprocess.run(
                [*words, "--quiet", *arguments],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NodeError(f"`{command}` cannot be run ({type(error).__name__})") from None
        if done.returncode != 0:
            raise NodeError(f"`{command} {arguments[0]}` failed: {(done.stderr or done.stdout).strip()[-200:]}")
        return done.stdout

    return ctl


def look_at_node(ctl: Ctl | None, vhost: str, services: tuple[str, ...], clock: Clock) -> list[Diagnosis]:
    """Everything that `rabbitmqctl` tells. None: it was not named."""
    if ctl is None:
        do = "--rabbitmqctl 'sudo rabbitmqctl'"
        return [unseen("broker node", "Alarms, users' rights, connected builds and its clock: AMQP does not tell.", do)]
    found: list[Diagnosis] = []
    for looks in (
        _alarms,
        lambda ctl: _rights(ctl, vhost),
        lambda ctl: _builds(ctl, services),
        lambda ctl: _clock(ctl, clock),
    ):
        try:
            found += looks(ctl)
        except (NodeError, ValueError, KeyError, TypeError) as error:
            says = str(error) if isinstance(error, NodeError) else "rabbitmqctl printed what was not expected"
            found.append(unseen("broker node", f"{says}.", "--rabbitmqctl COMMAND, run as who may"))
    return found


def _alarms(ctl: Ctl) -> list[Diagnosis]:
    status = orjson.loads(ctl("status", "--formatter", "json"))
    alarms = [orjson.dumps(one).decode() for one in status["alarms"]]
    if alarms:
        do = "rabbitmq-diagnostics alarms; make room on its disk, or give it memory: it takes no message until then"
        return [broken("broker node", f"Alarms are on: {', '.join(alarms)[:200]}.", do)]
    return [well("broker node", "No alarm is on.")]


def _rights(ctl: Ctl, vhost: str) -> list[Diagnosis]:
    """The users' permissions, held against the one table of `remit permissions`. Names that are not ours are senders or listeners."""
    rows = orjson.loads(ctl("list_permissions", "--vhost", vhost, "--formatter", "json"))
    ours = {user.name: user for user in broker_users()}
    tags = {row["user"]: row.get("tags") or [] for row in orjson.loads(ctl("list_users", "--formatter", "json"))}
    found = [one for row in rows if (one := _judge(row, ours.get(row["user"]), tags.get(row["user"], []))) is not None]
    missing = sorted(ours.keys() - {row["user"] for row in rows} - {SETUP, AUDIT})
    if missing:
        says = f"No user has the name {', '.join(missing)}: services share one that may do everything."
        found.append(look("broker rights", says, "remit permissions rabbitmq"))
    return found or [well("broker rights", "Every user may do what it should, and nothing else.")]


def _judge(row: dict[str, Any], ours: BrokerUser | None, tags: list[str]) -> Diagnosis | None:
    name = row["user"]
    if tags:
        says = f"User {name} has the tag {', '.join(map(str, tags))}, which no user of Remit needs."
        return look(
            "broker rights", says, f"rabbitmqctl set_user_tags {name}, or delete_user, unless it is an administrator's"
        )
    if ours is not None:
        differs = sorted(
            right for right, pattern in ours.patterns().items() if _as_kept(row[right]) != _as_kept(pattern)
        )
        says = f"User {name} has other rights than it needs to {', '.join(differs)}."
        return broken("broker rights", says, "remit permissions rabbitmq") if differs else None
    beyond = sorted(right for right in ("configure", "write", "read") if re.fullmatch(r"\^?\(?\.\*\)?\$?", row[right]))
    says = f"User {name} may {' and '.join(beyond)} everything, our queues included."
    return look("broker rights", says, f"remit permissions rabbitmq --sender {name}") if beyond else None


def _as_kept(pattern: str) -> str:
    """The pattern; both ways to write that nothing is allowed are one."""
    return "" if pattern in _NOTHING else pattern


def _builds(ctl: Ctl, services: tuple[str, ...]) -> list[Diagnosis]:
    builds = builds_in(ctl("list_connections", "client_properties", "--formatter", "json"), services)
    if left := others(builds):
        says = f"Other builds than this one are connected: {', '.join(map(str, left))}."
        return [look("builds", says, "remit version; finish the upgrade, or run the doctor of their build")]
    return [well("builds", f"{len(builds)} services are connected, all of this build.")]


def _clock(ctl: Ctl, clock: Clock) -> list[Diagnosis]:
    before = clock()
    theirs_ms = int(ctl("eval", "erlang:system_time(millisecond)."))
    after = clock()
    # The answer is made near the end of the call: most of its time is the start of the tool.
    early, late = theirs_ms / 1_000 - after.timestamp(), theirs_ms / 1_000 - before.timestamp()
    return [judge_skew("broker node", 0.0 if early <= 0 <= late else min(early, late, key=abs))]
