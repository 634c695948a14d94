"""What each RabbitMQ user may configure, write and read: the one table, derived from the topology and the contracts.

`remit permissions` prints it, the local stack and the tests apply it, and tests/service/permissions holds a real broker against it.

What an operation needs is RabbitMQ's rule (rabbitmq.com/docs/access-control, "How Permissions Work"). To publish is to write an exchange.
To consume or purge is to read a queue. To bind is to write the receiving end and to read the giving end. To declare and to delete is to
configure. A passive declaration and direct reply-to need no permission.

A permission is on a name, and so on the queue and the exchange of that name alike. Nobody but the set-up may write to a name that a queue
has: so nobody else binds or unbinds a queue of ours, or reaches one by an exchange of their own.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from deploy.permissions import databases
from deploy.permissions.passwords import rabbitmq_hash
from shared.contracts import operations
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES, PUBLIC_COMMANDS
from shared.messaging.topology import (
    DEAD_LETTERS,
    DEFAULT_EXCHANGE,
    EXCHANGES,
    FORMER_EXCHANGES,
    QUEUES,
    WORK_QUEUES,
    ingress_exchange,
    is_public,
    own_exchange,
)

Permission = Literal["configure", "write", "read"]

SETUP: Final = "remit_setup"
"""The user of `remit topology`. It owns exchanges, queues and bindings, and cannot reach a queue by the default exchange."""
AUDIT: Final = "remit_audit"
"""The user of `remit audit`. It may take messages from our queues, because the audit looks into them with `--drained`."""
ISSUERS: Final = ("saga", "staff")
"""The services that issue commands (rule 1 of services/README.md)."""
ANSWERS_BY_NAME: Final = ("invoice", "staff")
"""The services that write to a queue by its name: the invoice service answers to `reply_to`, and staff replay a dead letter to the one
queue that had it."""

_SERVICES: Final = tuple(dict.fromkeys(queue.name.partition(".")[0] for queue in WORK_QUEUES))
"""A work queue begins with the name of the service that consumes it."""
_RESOURCES: Final = frozenset(exchange.name for exchange in EXCHANGES) | frozenset(queue.name for queue in QUEUES)
FORMER_OF_SERVICES: Final = frozenset({DEAD_LETTERS})
FORMER_OF_SENDERS: Final = frozenset(exchange.name for exchange in FORMER_EXCHANGES)
"""Where the build before publishes, and this one does not. Both are names of queues as well."""
_TAKEN: Final = frozenset(
    {
        "amq",
        "postgres",
        *_SERVICES,
        SETUP,
        AUDIT,
        *(role for one in databases.SERVICES for role in databases.roles(one)),
    }
)
"""Names with a meaning. Those of roles are among them, because a user and a role of one name have one password."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NOTHING: Final = "^$"


class NameRefusedError(ValueError):
    """The name of a sender or listener cannot be used. The text is one sentence."""


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """A user without tags. `configure`, `write` and `read` name exchanges and queues.

    With `owns_prefix` the user may do all three with whatever begins with its name and a dot.
    """

    name: str
    configure: frozenset[str] = frozenset()
    write: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    owns_prefix: bool = False

    def may(self, permission: Permission, resource: str) -> bool:
        """Whether this user has this permission on an exchange or queue of this name."""
        names: frozenset[str] = getattr(self, permission)
        return resource in names or (self.owns_prefix and resource.startswith(f"{self.name}."))

    def pattern(self, permission: Permission) -> str:
        """The regular expression that RabbitMQ keeps for this permission."""
        names = [_escaped(name) for name in sorted(getattr(self, permission))]
        if self.owns_prefix:
            names.append(f"{_escaped(self.name)}[.].*")
        return f"^({'|'.join(names)})$" if names else _NOTHING

    def patterns(self) -> dict[str, str]:
        """All three, by permission."""
        return {permission: self.pattern(permission) for permission in get_args(Permission)}


def broker_users(
    senders: Iterable[str] = (), listeners: Iterable[str] = (), *, upgrading: bool = False
) -> tuple[BrokerUser, ...]:
    """Every user: those of the services, the set-up's, the audit's, and those of the named senders and listeners.

    A sender may send commands, and receive answers in queues of its own. A listener may hear public events in queues of its own. One name
    may be both. With `upgrading`, services and senders may also do what those of the build before need. Raises `NameRefusedError`.
    """
    senders, listeners = frozenset(senders), frozenset(listeners)
    outside = [_outside(name, sends=name in senders, listens=name in listeners) for name in sorted(senders | listeners)]
    services = [_service(name) for name in _SERVICES]
    if upgrading:
        services = [replace(one, write=one.write | _former_of(one)) for one in services]
        outside = [replace(one, write=one.write | FORMER_OF_SENDERS) if one.write else one for one in outside]
    return (
        *services,
        BrokerUser(SETUP, configure=_RESOURCES, write=_RESOURCES, read=_RESOURCES),
        BrokerUser(AUDIT, read=frozenset(queue.name for queue in QUEUES)),
        *outside,
    )


def definitions(
    users: Sequence[BrokerUser], vhost: str, passwords: Mapping[str, str] | None = None
) -> dict[str, list[dict[str, str]]]:
    """The users and their permissions in one virtual host, for `rabbitmqctl import_definitions`.

    The users themselves are included only with `passwords` (by name), because RabbitMQ would take the password from a user who is imported
    without one. They are kept as salted hashes.
    """
    made: dict[str, list[dict[str, str]]] = {"vhosts": [{"name": vhost}]}
    if passwords is not None:
        made["users"] = [
            {
                "name": user.name,
                "password_hash": rabbitmq_hash(passwords[user.name]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for user in users
        ]
    made["permissions"] = [{"user": user.name, "vhost": vhost, **user.patterns()} for user in users]
    return made


def commands(users: Sequence[BrokerUser], vhost: str) -> str:
    """A shell script that makes the same with `rabbitmqctl`. It can be run again.

    `rabbitmqctl` asks the terminal for the password of a user who does not exist yet, so that none is on a command line, and none is shown.
    Nothing else reads the script's input, which may be the script itself (`| sh`).
    """
    lines = [
        "set -eu",
        'ctl() { rabbitmqctl "$@" </dev/null; }',
        'echoes() { stty "$1" </dev/tty 2>/dev/null || :; }',
        "trap 'echoes echo' EXIT",
        'add() { echoes -echo; rabbitmqctl add_user "$1" </dev/tty; echoes echo; }',
        "users=$(ctl list_users --silent --no-table-headers | cut -f1)",
    ]
    for user in users:
        lines += [
            "",
            f'echo "$users" | grep -qx {user.name} || add {user.name}',
            f"ctl set_user_tags {user.name}",
            f"ctl set_permissions --vhost {shlex.quote(vhost)} {user.name} \\",
            *_word(user.pattern("configure"), more=" \\"),
            *_word(user.pattern("write"), more=" \\"),
            *_word(user.pattern("read"), more=""),
        ]
    return "\n".join(lines) + "\n"


def _service(name: str) -> BrokerUser:
    said = {exchange for message in MESSAGES for exchange in _entered_by(name, message)}
    return BrokerUser(
        name,
        write=frozenset(
            {ingress_exchange(DEAD_LETTERS), *said, *((DEFAULT_EXCHANGE,) if name in ANSWERS_BY_NAME else ())}
        ),
        read=frozenset(queue.name for queue in QUEUES if _reader(queue.name) == name),
    )


def _entered_by(service: str, message: type[Contract]) -> frozenset[str]:
    """The exchanges by which this service sends the message; none if it does not send it."""
    if not message.exchange or message.wire_name in PUBLIC_COMMANDS:
        return frozenset()
    if message.kind == "command":
        return frozenset({message.exchange}) if service in ISSUERS else frozenset()
    if message.__module__ == operations.__name__:
        return frozenset({message.exchange})
    if message.__module__.rpartition(".")[2] != service:
        return frozenset()
    if not is_public(message.exchange):
        return frozenset({message.exchange})
    return frozenset({own_exchange(message.exchange), message.exchange})


def _former_of(service: BrokerUser) -> frozenset[str]:
    """What this service also writes to in the build before."""
    return FORMER_OF_SERVICES.union(ingress_exchange(name) for name in service.write if is_public(name))


def _reader(queue: str) -> str:
    """The service that consumes a queue. Dead letters are for staff."""
    return "staff" if queue.startswith(DEAD_LETTERS) else queue.partition(".")[0]


def _outside(name: str, *, sends: bool, listens: bool) -> BrokerUser:
    """A user of another system. Its own prefix must hold nothing of ours, or the user could read our queues."""
    if _NAME.fullmatch(name) is None:
        raise NameRefusedError(
            f"{name!r} cannot name a sender or listener: use 1 to 64 letters, digits, `-` and `_`, and no dot."
        )
    ours = sorted(resource for resource in _RESOURCES if resource.startswith(f"{name}."))
    if ours or name in _TAKEN:
        what = f"it would own {ours[0]}" if ours else "it has a meaning already"
        raise NameRefusedError(f"{name!r} cannot name a sender or listener: {what}.")
    return BrokerUser(
        name,
        write=_public_commands() if sends else frozenset(),
        read=frozenset(one.name for one in EXCHANGES if one.type == "topic") if listens else frozenset(),
        owns_prefix=True,
    )


def _public_commands() -> frozenset[str]:
    return frozenset(message.exchange for message in MESSAGES if message.wire_name in PUBLIC_COMMANDS)


def _escaped(name: str) -> str:
    """The name as a pattern. `[.]` needs no backslash, which shells and JSON would each read in their own way."""
    return name.replace(".", "[.]")


_WIDTH: Final = 72


def _word(pattern: str, *, more: str) -> list[str]:
    """The pattern as one word of a shell, on lines that fit into a terminal of 80 columns."""
    lines, line = [], "  '"
    for part in re.split(r"(?<=\|)", pattern):
        if len(line) + len(part) > _WIDTH:
            lines.append(f"{line}'\\")
            line = "'"  # not indented: a blank would end the word
        line += part
    return [*lines, f"{line}'{more}"]
