"""One RabbitMQ and one PostgreSQL for this machine: given by variables, in containers, or as private processes.

    with open_stack(say=print) as stack:
        stack.rabbitmq_url, stack.service_database_url("invoice")

The first that is possible is used: the servers that RABBITMQ_URL and the four `*_DATABASE_URL` name, if these are set; containers, if a
Docker engine answers and has (or quickly gets) the images; private processes. REMIT_STACK=containers or REMIT_STACK=private overrides this.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NoReturn, Protocol, get_args
from urllib.parse import quote, unquote, urlsplit

from deploy.local import containers, rabbitmq
from deploy.local.errors import NotOursError, StackError
from deploy.local.postgres import PrivatePostgres, psql
from deploy.local.processes import Processes
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.scratch import Scratch

Kind = Literal["given", "containers", "private"]
Service = Literal["invoice", "payment_gateway", "saga", "staff"]
Say = Callable[[str], None]

SERVICES: Final[tuple[Service, ...]] = get_args(Service)
RABBITMQ_VARIABLE: Final = "RABBITMQ_URL"
ADMIN_VARIABLE: Final = "POSTGRES_URL"
"""Optional with given databases: the URL of a role that may create databases. Without it INVOICE_DATABASE_URL's role must be able to."""
KIND_VARIABLE: Final = "REMIT_STACK"


def database_variable(service: Service) -> str:
    """The environment variable that names a service's database."""
    return f"{service.upper()}_DATABASE_URL"


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

    def service_database_url(self, service: Service) -> str:
        """The URL of a service's database."""
        return self._service_urls[service]

    def environment(self) -> dict[str, str]:
        """The variables that tell every service, and open_stack itself, to use this stack."""
        services = {database_variable(service): self.service_database_url(service) for service in SERVICES}
        return {RABBITMQ_VARIABLE: self.rabbitmq_url, **services, ADMIN_VARIABLE: self.postgres_url}

    def database_url(self, name: str) -> str:
        """The URL of the database `name` on this server; create_database makes it."""
        return _with_path(self.postgres_url, name)

    def create_database(self, name: str) -> str:
        """Creates an empty database and returns its URL; raises StackError if the name is taken."""
        psql(self.postgres_url, f"CREATE DATABASE {_quoted(name)}")
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Drops a database and disconnects its users; a database that does not exist is no error."""
        psql(self.postgres_url, f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def vhost_url(self, name: str) -> str:
        """The URL of the virtual host `name` on this broker; create_vhost makes it."""
        return _with_path(self.rabbitmq_url, name)

    def create_vhost(self, name: str) -> str:
        """Creates a virtual host and returns its URL (takes a second); raises NotOursError on a given broker."""
        self.broker.ctl("add_vhost", name)
        user = unquote(urlsplit(self.rabbitmq_url).username or "")
        self.broker.ctl("set_permissions", "--vhost", name, user, ".*", ".*", ".*")
        return self.vhost_url(name)

    def drop_vhost(self, name: str) -> None:
        """Deletes a virtual host with its queues and disconnects its users; raises NotOursError on a given broker."""
        self.broker.ctl("delete_vhost", name)


@contextmanager
def open_stack(*, say: Say, scratch: Path | None = None) -> Iterator[Stack]:
    """Yields a running stack and leaves nothing of it behind. `scratch`: the parent of its folder (default: TMPDIR).

    Raises StackError with one sentence for the user. However the caller ends, what was started here ends with it.
    """
    forced = _forced_kind(os.environ)
    given = _given(os.environ) if forced is None else None
    if given is not None:
        yield given
        return
    kind = forced or ("containers" if containers.are_available() else "private")
    with ExitStack() as to_close:
        # Closed last: its threads wait for servers, and stop waiting once these have ended.
        pool = to_close.enter_context(ThreadPoolExecutor(max_workers=2))
        home = Scratch.create(scratch)
        to_close.callback(home.release)
        processes = to_close.enter_context(Processes(home.folder, home.held_locks))
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


def _open_private(home: Scratch, processes: Processes, pool: ThreadPoolExecutor, say: Say) -> Stack:
    rabbitmq.ensure_installed(say)
    say("Starting a private RabbitMQ and PostgreSQL")
    starting_database = pool.submit(PrivatePostgres.open, home, processes)
    broker = PrivateRabbit.open(home, processes)
    database = starting_database.result()
    return _with_databases(Stack("private", broker.url, database.url, broker, database, {}))


def _open_containers(home: Scratch, processes: Processes, pool: ThreadPoolExecutor, say: Say) -> Stack:
    say("Starting RabbitMQ and PostgreSQL in containers")
    with containers.errors_explained():
        containers.remove_orphans()
        starting_database = pool.submit(containers.postgresql, home, processes)
        broker = containers.rabbitmq(home, processes)
        database = starting_database.result()
    return _with_databases(Stack("containers", broker.url, database.url, broker, database, {}))


def _with_databases(stack: Stack) -> Stack:
    """Makes a database for each service, and returns the stack."""
    return replace(stack, _service_urls={service: stack.create_database(service) for service in SERVICES})


def _with_path(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{quote(name, safe='')}").geturl()


def _quoted(identifier: str) -> str:
    """Quotes an SQL identifier, whatever it contains."""
    return '"' + identifier.replace('"', '""') + '"'
