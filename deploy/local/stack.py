"""One RabbitMQ and one PostgreSQL for this machine: given by variables, in containers, or as private processes.

    with open_stack(say=print) as stack:
        stack.environment_of("invoice")  # what the invoice service gets: a user and a role of its own
        stack.environment()              # what the set-up gets

The first that is possible is used: the servers that RABBITMQ_URL and the four `*_DATABASE_URL` name, if these are set; containers, if a
Docker engine answers and has (or quickly gets) the images; private processes. REMIT_STACK=containers or REMIT_STACK=private overrides this.
"""

import json
import os
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal, NoReturn, Protocol
from urllib.parse import quote, unquote, urlsplit

from deploy.local import containers, rabbitmq
from deploy.local.errors import NotOursError, StackError
from deploy.local.postgres import PrivatePostgres, psql
from deploy.local.processes import Processes
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.scratch import Scratch
from deploy.permissions.broker import broker_users, definitions
from deploy.permissions.databases import AUDIT, DOOR, SERVICES, Service, owner, roles, roles_sql
from deploy.permissions.passwords import kept_passwords
from shared.settings import database_variable

__all__ = [
    "ADMIN_VARIABLE",
    "KIND_VARIABLE",
    "LISTENER",
    "OPERATOR",
    "RABBITMQ_VARIABLE",
    "SERVICES",
    "UPSTREAM",
    "BrokerServer",
    "DatabaseServer",
    "Kind",
    "Service",
    "Stack",
    "database_variable",
    "open_stack",
]
"""Some of these are names of `deploy.permissions`, which every user of a stack needs."""

Kind = Literal["given", "containers", "private"]
Say = Callable[[str], None]

UPSTREAM: Final = "upstream"
"""A sender that listens to events as well: the demo's, and that of most tests."""
LISTENER: Final = "listener"
"""A system that only listens to events."""
OPERATOR: Final = "remit"
"""The person who types `remit`: on the broker a sender, in the databases the role that reads, and staff's own for what staff do."""
_users: Final = partial(broker_users, senders=(UPSTREAM, OPERATOR), listeners=(UPSTREAM, LISTENER))
USERS: Final = _users()
"""The users of a stack's broker."""
RABBITMQ_VARIABLE: Final = "RABBITMQ_URL"
ADMIN_VARIABLE: Final = "POSTGRES_URL"
"""Optional with given databases: the URL of a role that may create databases. Without it INVOICE_DATABASE_URL's role must be able to."""
SENDERS_VARIABLE: Final = "SENDERS"
"""A setting of the invoice service: whether it can tell senders apart."""
KIND_VARIABLE: Final = "REMIT_STACK"


class DatabaseServer(Protocol):
    """Controls the database server. On a given one every method raises NotOursError."""

    def start(self) -> None:
        """Starts it again on the same port and data; returns when it serves."""

    def kill(self) -> None:
        """kill -9; returns when it is gone."""


class BrokerServer(Protocol):
    """Controls the broker. On a given one every method raises NotOursError."""

    def start(self) -> None:
        """Starts it again on the same port and data; returns when it serves."""

    def kill(self) -> None:
        """kill -9; returns when it is gone."""

    def ctl(self, *arguments: str) -> str:
        """Runs rabbitmqctl on it and returns the output; raises StackError if that fails."""
        ...

    def import_definitions(self, definitions: str) -> None:
        """Makes virtual hosts, users and permissions of this JSON (half a second); raises StackError if that fails."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A running broker and database server. URLs hold passwords and must not be logged, so repr() shows none."""

    kind: Kind
    rabbitmq_url: str = field(repr=False)
    postgres_url: str = field(repr=False)
    """The URL of a role that may create databases, on a database that exists."""
    broker: BrokerServer = field(repr=False)
    database: DatabaseServer = field(repr=False)
    _service_urls: Mapping[Service, str] = field(repr=False)
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The password of each user and role of ours, by its name; empty on given servers, whose users are not ours."""

    @property
    def vhost(self) -> str:
        """The name of the virtual host."""
        return unquote(urlsplit(self.rabbitmq_url).path[1:]) or "/"

    @property
    def administrator(self) -> str:
        """The broker's user of the set-up."""
        return unquote(urlsplit(self.rabbitmq_url).username or "")

    def service_database_url(self, service: Service) -> str:
        """The URL of a service's database for the set-up: of the role that owns it. A service gets its own by `environment_of`."""
        return self._service_urls[service]

    def environment(self) -> dict[str, str]:
        """The variables that tell the set-up, and open_stack itself, to use this stack."""
        services = {database_variable(service): self.service_database_url(service) for service in SERVICES}
        return {RABBITMQ_VARIABLE: self.rabbitmq_url, **services, ADMIN_VARIABLE: self.postgres_url}

    def environment_of(self, who: str) -> dict[str, str]:
        """The variables with the servers' addresses for a service, the `OPERATOR` or the `AUDIT`: each has a user and roles of its own.

        The staff desk, `desk`, has those of the staff service, without the broker. The door, `door`, has a role of its own in the database
        of the invoice service.

        What a service is told only where permissions are set up belongs here, too: a given server knows none of our users.
        """
        senders = "named" if self.passwords else os.environ.get(SENDERS_VARIABLE) or "trusted"
        told = {SENDERS_VARIABLE: senders} if who in {"invoice", DOOR} else {}
        if who == DOOR:
            return {database_variable("invoice"): self.database_url_of("invoice", DOOR)} | told
        if who == "desk":
            return {database_variable("staff"): self.database_url_of("staff", "staff")}
        if not self.passwords:
            return self.environment() | told
        roles_of: dict[Service, str] = {own: own for own in SERVICES if own == who}
        if who in {OPERATOR, AUDIT}:
            roles_of = dict.fromkeys(SERVICES, AUDIT)
        if who == OPERATOR:
            roles_of["staff"] = "staff"
        urls = {database_variable(service): self.database_url_of(service, role) for service, role in roles_of.items()}
        return {RABBITMQ_VARIABLE: self.rabbitmq_url_of(who), **urls, **told}

    def rabbitmq_url_of(self, user: str) -> str:
        """The broker's URL for one of our users; on a given broker the one URL that there is."""
        return self._as(self.rabbitmq_url, user)

    def database_url_of(self, service: Service, role: str) -> str:
        """The URL of a service's database for one of our roles; of a given database the one URL that there is."""
        return self._as(self.service_database_url(service), role)

    def administrator_database_url(self, service: Service) -> str:
        """The URL of a service's database for the administrator, who sees every session; of a given database the one URL that there is."""
        url = self.service_database_url(service)
        return self.database_url(unquote(urlsplit(url).path[1:])) if self.passwords else url

    def _as(self, url: str, name: str) -> str:
        """The URL with this name and its password in place of those that it has."""
        if name not in self.passwords:
            return url
        parts = urlsplit(url)
        address = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{name}:{self.passwords[name]}@{address}").geturl()

    def database_url(self, name: str) -> str:
        """The URL of the database `name` on this server; create_database makes it."""
        return _with_path(self.postgres_url, name)

    def create_database(self, name: str, *, owner: str | None = None) -> str:
        """Creates an empty database and returns its URL for its owner; raises StackError if the name is taken."""
        owned = f" OWNER {_quoted(owner)}" if owner else ""
        psql(self.postgres_url, f"CREATE DATABASE {_quoted(name)}{owned}")
        return self._as(self.database_url(name), owner or "")

    def drop_database(self, name: str) -> None:
        """Drops a database and disconnects its users; a database that does not exist is no error."""
        psql(self.postgres_url, f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def vhost_url(self, name: str) -> str:
        """The URL of the virtual host `name` on this broker; create_vhost makes it."""
        return _with_path(self.rabbitmq_url, name)

    def create_vhost(self, name: str) -> str:
        """Creates a virtual host with our users' permissions in it, and returns its URL for the administrator (takes half a second).

        Raises NotOursError on a given broker.
        """
        url = self.vhost_url(name)
        replace(self, rabbitmq_url=url).permit()
        return url

    def permit(self, *, upgrading: bool = False) -> None:
        """Makes the virtual host of `rabbitmq_url`, our users, and their permissions there. Raises NotOursError on a given broker."""
        everything = definitions(_users(upgrading=upgrading), self.vhost, self.passwords or None)
        everything["permissions"].append(
            {"user": self.administrator, "vhost": self.vhost, "configure": ".*", "write": ".*", "read": ".*"}
        )
        self.broker.import_definitions(json.dumps(everything))

    def drop_vhost(self, name: str) -> None:
        """Deletes a virtual host with its queues and disconnects its users; raises NotOursError on a given broker."""
        self.broker.ctl("delete_vhost", name)

    @contextmanager
    def part(self, name: str) -> "Iterator[Stack]":
        """A virtual host (not on a given broker) and empty databases of its own on these servers, which are dropped at the end."""
        try:
            url = self.rabbitmq_url if self.kind == "given" else self.create_vhost(name)
            yield replace(self, rabbitmq_url=url, _service_urls=self.create_service_databases(f"{name}_"))
        finally:
            with suppress(StackError):  # the servers may be gone already
                for service in SERVICES:
                    self.drop_database(f"{name}_{service}")
                if self.kind != "given":
                    self.drop_vhost(name)

    def create_service_databases(self, prefix: str) -> dict[Service, str]:
        """Creates a database for each service, by its name behind the prefix, unless it is there; returns their URLs for their owners."""
        there = set(psql(self.postgres_url, "SELECT datname FROM pg_database").split())
        return {service: self._service_database(f"{prefix}{service}", service, there) for service in SERVICES}

    def _service_database(self, name: str, service: Service, there: Container[str]) -> str:
        role = owner(service) if self.passwords else None
        return (
            self._as(self.database_url(name), role or "") if name in there else self.create_database(name, owner=role)
        )


@contextmanager
def open_stack(*, say: Say, scratch: Path | None = None, keep: str | None = None) -> Iterator[Stack]:
    """Yields a running stack and leaves nothing of it behind. `scratch`: the parent of its folder (default: TMPDIR).

    `keep`: a name under which the data of private servers stay, and are found again the next time.

    Raises StackError with one sentence for the user. However the caller ends, what was started here ends with it.
    """
    forced = _forced_kind(os.environ)
    given = _given(os.environ) if forced is None else None
    if keep is not None and (given is not None or forced == "containers"):
        raise StackError("KEEP=1 keeps the data of private servers: it goes with neither given ones nor containers.")
    if given is not None:
        yield given
        return
    kind = "private" if keep is not None else forced or ("containers" if containers.are_available() else "private")
    with ExitStack() as to_close:
        # Closed last: its threads wait for servers, and stop waiting once these have ended.
        pool = to_close.enter_context(ThreadPoolExecutor(max_workers=2))
        home = Scratch.create(scratch) if keep is None else Scratch.keep(keep)
        to_close.callback(home.release)
        processes = to_close.enter_context(Processes(home.to_remove, home.held_locks))
        yield (_open_private if kind == "private" else _open_containers)(home, processes, pool, say)


def _forced_kind(environment: Mapping[str, str]) -> Literal["containers", "private"] | None:
    match environment.get(KIND_VARIABLE, ""):
        case "":
            return None
        case "containers" | "private" as kind:
            return kind
        case other:
            raise StackError(f"{KIND_VARIABLE} is {other!r}: it must be private or containers, or not be set.")


def _given(environment: Mapping[str, str]) -> Stack | None:
    names = (RABBITMQ_VARIABLE, *(database_variable(service) for service in SERVICES))
    missing = [name for name in names if not environment.get(name)]
    if len(missing) == len(names):
        return None
    if missing:
        present = next(name for name in names if name not in missing)
        raise StackError(
            f"{', '.join(missing)} must be set too, because {present} is; or unset that for a private stack."
        )
    services = {service: environment[database_variable(service)] for service in SERVICES}
    admin = environment.get(ADMIN_VARIABLE) or services["invoice"]
    return Stack("given", environment[RABBITMQ_VARIABLE], admin, _Given("broker"), _Given("database"), services)


class _Given:
    """A server that was given to us. It is used, and never controlled."""

    def __init__(self, what: str) -> None:
        self._what = what

    def start(self) -> NoReturn:
        raise NotOursError(self._what)

    def kill(self) -> NoReturn:
        raise NotOursError(self._what)

    def ctl(self, *_arguments: str) -> NoReturn:
        raise NotOursError(self._what)

    def import_definitions(self, _definitions: str) -> NoReturn:
        raise NotOursError(self._what)


def _open_private(home: Scratch, processes: Processes, pool: ThreadPoolExecutor, say: Say) -> Stack:
    rabbitmq.ensure_installed(say)
    say("Starting a private RabbitMQ and PostgreSQL")
    starting_database = pool.submit(PrivatePostgres.open, home, processes)
    broker = PrivateRabbit.open(home, processes)
    database = starting_database.result()
    return _set_up(Stack("private", broker.url, database.url, broker, database, {}), home)


def _open_containers(home: Scratch, processes: Processes, pool: ThreadPoolExecutor, say: Say) -> Stack:
    say("Starting RabbitMQ and PostgreSQL in containers")
    with containers.errors_explained():
        containers.remove_orphans()
        starting_database = pool.submit(containers.postgresql, home, processes)
        broker = containers.rabbitmq(home, processes)
        database = starting_database.result()
    return _set_up(Stack("containers", broker.url, database.url, broker, database, {}), home)


def _set_up(stack: Stack, home: Scratch) -> Stack:
    """Makes our users and roles, each with a password of its own, and a database for each service; returns the stack."""
    names = {user.name for user in USERS} | {role for service in SERVICES for role in roles(service)}
    stack = replace(stack, passwords=kept_passwords(home.folder / "passwords", sorted(names)))
    stack.permit()
    nobody_else = "REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;"
    psql(stack.postgres_url, "\n".join([nobody_else, *(roles_sql(service, stack.passwords) for service in SERVICES)]))
    return replace(stack, _service_urls=stack.create_service_databases(""))


def _with_path(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{quote(name, safe='')}").geturl()


def _quoted(identifier: str) -> str:
    """Quotes an SQL identifier, whatever it contains."""
    return '"' + identifier.replace('"', '""') + '"'
