"""TLS with a private authority, at a real broker and in front of a real PostgreSQL: who is not trusted is refused, with a sentence.

The private PostgreSQL is built without TLS. So a proxy stands before it that answers a client's SSLRequest as a server does.
"""

import re
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from shared.amqp.broker_link import BrokerLink, CannotConnectError
from shared.persistence.database import AWAY_ERRORS, Database, mistake_of
from shared.urls import check_broker_url, check_database_url
from tests.support.authority import NOW, Authority, Certificate
from tests.support.environment import Environment

SSL_REQUEST_BYTES = 8
DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Files:
    """What an authority signed, and another authority that nobody here trusts."""

    authority: Authority
    stranger: Authority
    server: Certificate
    elsewhere: Certificate
    expired: Certificate
    client: Certificate
    foreign_client: Certificate

    def of(self, name: str) -> Certificate:
        certificate: Certificate = getattr(self, name)
        return certificate


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ours, stranger = Authority.make(folder, "ours"), Authority.make(folder, "stranger")
    return Files(
        ours,
        stranger,
        server=ours.sign("server"),
        elsewhere=ours.sign("elsewhere", host="another.example"),
        expired=ours.sign("expired", until=NOW - timedelta(days=1)),
        client=ours.sign("client"),
        foreign_client=stranger.sign("foreign_client"),
    )


REFUSED = [
    ("server", "stranger", "(unable to get local issuer certificate|self-signed certificate in certificate chain)"),
    ("elsewhere", "authority", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ("expired", "authority", "certificate has expired"),
]
KINDS = ["wrong authority", "wrong host", "expired"]


# -- the broker ---------------------------------------------------------------------------------------------------------------------------


LISTENERS = {"server": False, "elsewhere": False, "expired": False, "mutual": True}
"""Further listeners of the broker, by the name of their certificate, and whether a client has to show one of our authority."""


@dataclass(frozen=True, slots=True)
class TlsBroker:
    """The broker at its further listeners."""

    rabbitmq_url: str
    ports: dict[str, int]

    def url(self, listener: str, **parameters: object) -> str:
        """The URL of a listener, for the saga's user."""
        parts = urlsplit(self.rabbitmq_url)
        address = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.ports[listener]}"
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return check_broker_url(parts._replace(scheme="amqps", netloc=address, query=query).geturl())


@pytest.fixture(scope="module")
def broker(environment_urls: Environment, files: Files) -> Iterator[TlsBroker]:
    stack = environment_urls.stack
    if stack.kind != "private":
        pytest.skip("it opens further listeners of the broker, which reads the files of this machine")
    with ExitStack() as free:
        found = {name: free.enter_context(socket.create_server(("127.0.0.1", 0))) for name in LISTENERS}
        ports = {name: one.getsockname()[1] for name, one in found.items()}
    opening = [_listener(files, name, port, wants_ours=LISTENERS[name]) for name, port in ports.items()]
    closing = [f'rabbit_networking:stop_tcp_listener({{"127.0.0.1",{port},inet}})' for port in ports.values()]
    stack.broker.ctl("eval", f"{', '.join(['rabbit_networking:ensure_ssl()', *opening])}.")
    yield TlsBroker(environment_urls.settings("saga").rabbitmq_url, ports)
    stack.broker.ctl("eval", f"{', '.join(closing)}.")


def _listener(files: Files, name: str, port: int, *, wants_ours: bool) -> str:
    own = files.server if wants_ours else files.of(name)
    verify = "{verify,verify_peer},{fail_if_no_peer_cert,true}" if wants_ours else "{verify,verify_none}"
    options = f'{{cacertfile,"{files.authority.certificate}"}},{{certfile,"{own.certificate}"}},{{keyfile,"{own.key}"}},{verify}'
    return f'rabbit_networking:start_ssl_listener({{"127.0.0.1",{port},inet}},[{options}],1)'


async def connect(url: str) -> None:
    link = BrokerLink(url, name="tls")
    try:
        await link.channel(confirms=False)
    finally:
        await link.close()


async def test_the_broker_is_reached_by_tls_and_by_mutual_tls(broker: TlsBroker, files: Files) -> None:
    ca = files.authority.certificate
    await connect(broker.url("server", cafile=ca))
    await connect(broker.url("mutual", cafile=ca, certfile=files.client.certificate, keyfile=files.client.key))
    for shown in ({}, {"certfile": files.foreign_client.certificate, "keyfile": files.foreign_client.key}):
        with pytest.raises(CannotConnectError, match="RABBITMQ_URL: the server does not take our certificate"):
            await connect(broker.url("mutual", cafile=ca, **shown))


@pytest.mark.parametrize(("certificate", "trusted", "says"), REFUSED, ids=KINDS)
async def test_a_broker_that_is_not_trusted_is_refused(
    certificate: str, trusted: str, says: str, broker: TlsBroker, files: Files
) -> None:
    authority: Authority = getattr(files, trusted)
    with pytest.raises(CannotConnectError) as told:
        await connect(broker.url(certificate, cafile=authority.certificate))
    assert re.fullmatch(rf"RABBITMQ_URL: the server's certificate is refused \({says}\)", str(told.value))


# -- the database -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def tls_before(url: str, certificate: Certificate, ca: Path | None = None) -> Iterator[str]:
    """A port at which the database speaks TLS. With `ca` a client has to show a certificate of that authority.

    It uses blocking sockets: asyncio aborts a connection whose handshake fails, so the client would not be told why.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    parts = urlsplit(url)

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(DEADLINE_S)
            client.recv(SSL_REQUEST_BYTES, socket.MSG_WAITALL)
            client.sendall(b"S")
            with (
                context.wrap_socket(client, server_side=True) as secured,
                socket.create_connection((parts.hostname or "", parts.port or 0), DEADLINE_S) as database,
            ):
                _pass_on(secured, database)

    def accept() -> None:
        with suppress(OSError):
            while True:
                Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = Thread(target=accept, daemon=True)
        accepting.start()
        port = server.getsockname()[1]
        yield parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
        server.shutdown(socket.SHUT_RDWR)
        accepting.join(DEADLINE_S)


def _pass_on(secured: ssl.SSLSocket, database: socket.socket) -> None:
    """Passes on what either side says until one hangs up. In one thread: OpenSSL does not let two use one connection at a time."""
    other = {secured: database, database: secured}
    while ready := [secured] if secured.pending() else select.select([secured, database], [], [], DEADLINE_S)[0]:
        for source in ready:
            if not (said := source.recv(2**16)):
                return
            other[source].sendall(said)


async def look(url: str) -> str:
    database = await Database.open(check_database_url(url), name="tls", connections_max=1)
    try:
        async with database.connection() as connection:
            return str(await connection.fetchval("SELECT current_user"))
    finally:
        await database.close()


def demanding(url: str, **parameters: object) -> str:
    return f"{url}?{'&'.join(f'{name}={value}' for name, value in parameters.items())}"


async def test_the_database_is_reached_by_tls_and_by_mutual_tls(environment: Environment, files: Files) -> None:
    url, ca = environment.settings("saga").database_url, files.authority.certificate
    with tls_before(url, files.server) as behind_tls:
        assert await look(demanding(behind_tls, sslmode="require")) == "saga"
        assert await look(demanding(behind_tls, sslmode="verify-full", sslrootcert=ca)) == "saga"
    with tls_before(url, files.server, ca) as mutual:
        trusting = {"sslmode": "verify-full", "sslrootcert": ca}
        shown = {"sslcert": files.client.certificate, "sslkey": files.client.key}
        assert await look(demanding(mutual, **trusting, **shown)) == "saga"
        foreign = {"sslcert": files.foreign_client.certificate, "sslkey": files.foreign_client.key}
        for wrong in ({}, foreign):
            with pytest.raises(AWAY_ERRORS) as told:
                await look(demanding(mutual, **trusting, **wrong))
            assert (mistake_of(told.value) or "").startswith("the server does not take our certificate")


@pytest.mark.parametrize(("certificate", "trusted", "says"), REFUSED, ids=KINDS)
async def test_a_database_that_is_not_trusted_is_refused(
    certificate: str, trusted: str, says: str, environment: Environment, files: Files
) -> None:
    authority: Authority = getattr(files, trusted)
    with (
        tls_before(environment.settings("saga").database_url, files.of(certificate)) as url,
        pytest.raises(AWAY_ERRORS) as told,
    ):
        await look(demanding(url, sslmode="verify-full", sslrootcert=authority.certificate))
    assert re.fullmatch(rf"the server's certificate is refused \({says}\)\.", mistake_of(told.value) or "")
