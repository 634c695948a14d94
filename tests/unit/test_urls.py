"""URLs are read in one way. What a URL asks for is done, or refused with a sentence that shows nothing of it."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest
from aiormq.connection import Connection as AmqpConnection
from asyncpg import connect_utils
from cryptography.hazmat.primitives import serialization

from shared.persistence.database import mistake_of
from shared.urls import (
    NoUrlError,
    UrlError,
    check_broker_url,
    check_database_url,
    database_arguments,
    has_one_host,
    without_password,
)
from tests.support.authority import Authority

SECRET = "very-secret"


def read_by_the_driver(url: str, **arguments: Any) -> Any:
    """What asyncpg makes of it: addresses, and the parameters of the connection."""
    given = database_arguments(check_database_url(url), name="remit", timeout_s=5.0)
    names = ("host", "port", "user", "password", "passfile", "database", "ssl", "service", "servicefile", "direct_tls")
    more = ("target_session_attrs", "krbsrvname", "gsslib")
    none = dict.fromkeys((*names, *more))
    return connect_utils._parse_connect_dsn_and_args(  # type: ignore[attr-defined]
        dsn=given["dsn"], server_settings=given["server_settings"], **none, **arguments
    )


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("postgresql://u:p@db/invoice", [("db", 5432)]),
        ("postgres://u@db:6432/invoice", [("db", 6432)]),
        ("postgresql://u@[::1]:5433/invoice", [("::1", 5433)]),
        ("postgresql://u@a:1,b:2,c/invoice", [("a", 1), ("b", 2), ("c", 5432)]),
        ("postgresql://u@a,b/invoice?target_session_attrs=read-write", [("a", 5432), ("b", 5432)]),
        ("postgresql://u@/invoice?host=/var/run/postgresql", ["/var/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://u@%2Fvar%2Frun/invoice", ["/var/run/.s.PGSQL.5432"]),
        ("postgresql:///invoice?host=db&port=6432&user=u", [("db", 6432)]),
    ],
)
def test_a_database_url_reaches_every_kind_of_address(url: str, addresses: list[Any]) -> None:
    assert read_by_the_driver(url)[0] == addresses


def test_user_and_password_are_percent_encoded() -> None:
    _, parameters = read_by_the_driver("postgresql://us%40er:p%3A%2F%40%23%25@db/in%20voice")
    assert (parameters.user, parameters.password, parameters.database) == ("us@er", "p:/@#%", "in voice")


def test_parameters_that_the_driver_does_not_know_are_obeyed_or_change_nothing() -> None:
    url = "postgresql://u@db/x?application_name=blue&connect_timeout=7&keepalives=1&channel_binding=prefer&gssencmode=disable&options=-c%20a.b%3D1"
    _, parameters = read_by_the_driver(url)
    assert parameters.server_settings == {"options": "-c a.b=1", "application_name": "remit blue"}
    assert database_arguments(url, name="remit", timeout_s=5.0)["timeout"] == 7.0
    assert database_arguments("postgresql://u@db/x", name="remit", timeout_s=5.0)["timeout"] == 5.0


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
def test_tls_is_what_the_url_demands(mode: str) -> None:
    _, parameters = read_by_the_driver(f"postgresql://u@db/x?sslmode={mode}")
    assert parameters.sslmode.name == mode
    assert bool(parameters.ssl) is (mode != "disable")


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("db/x?sslmod=require", r"has the parameter sslmod, which nobody knows; perhaps sslmode is meant"),
        ("db/x?ssl=require", r"has the parameter ssl, which is sslmode here"),
        ("db/x?sslmode=verify_full", r"has sslmode, which must be one of disable, .*verify-full"),
        ("db/x?sslmode=verify-full", r"has sslmode=verify-full and no sslrootcert: .*"),
        ("db/x?sslrootcert=/nowhere", r"has sslrootcert, which must be a file that can be read"),
        ("db/x?connect_timeout=soon", r"has connect_timeout, which must be a whole number from 1 to 60"),
        ("db/x?target_session_attrs=master", r"has target_session_attrs, which must be one of any, .*"),
        ("db/x?channel_binding=require", r"has channel_binding, which must be one of prefer, disable"),
        ("db/x?pgbouncer=true", r"has a parameter that is not known: it may have application_name, .*"),
        ("db/x?sslmode", r"has a parameter without a value: .*"),
        ("db/x#y", r"has a # or @ where none may be: in user and password write @ as %40.*"),
        ("w@rd@db/x", r"has a # or @ where none may be: .*"),
        ("::1:5432/x", r"has more than one : in its address: .*"),
        ("/x?host=a&port=1,2", r"has not as many ports as hosts: .*"),
        ("/x?host=a,b,c&port=1,2", r"has not as many ports as hosts: .*"),
        ("/x?host=db&port=54x2", r"has port, which must be one port, or one for each host"),
        ("/x?host=db&port=1,", r"has port, which must be one port, or one for each host"),
        ("db/x?port=6432", r"has port as a parameter: write it behind the host, as host:5433"),
        ("db:5x/x?host=db", r"has host as a parameter, and names it before the \? as well: leave one out"),
        ("db/x?user=v", r"has user as a parameter, and names it .*"),
        ("db/x?dbname=y", r"has dbname as a parameter, and names it .*"),
        ("a..b/x", r"has a host that cannot be one: .*"),
        (f"/x?host={'a' * 64}.b", r"has a host that cannot be one: .*"),
        ("db/x%00y", r"has %00, which stands in no name and no password"),
        (
            "db/x?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
            r"has an ssl_min_protocol_version above .*",
        ),
        ("db/x@y", r"has a # or @ where none may be: .*"),
    ],
)
def test_a_mistake_in_a_database_url_is_told(rest: str, sentence: str) -> None:
    with pytest.raises(UrlError) as told:
        check_database_url(f"postgresql://u:{SECRET}@{rest}")
    assert re.fullmatch(sentence, str(told.value))
    assert SECRET not in str(told.value)


CHAIN = r"has sslcert, which must be a certificate in PEM, and sslkey its key in PEM; a key with a password needs sslpassword"
CHAIN_OF_BROKER = (
    CHAIN.replace("sslcert", "certfile").replace("sslkey", "keyfile").replace("needs sslpassword", "cannot be read")
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate and its key, the key with the password `secret`, text that is neither, and password files."""
    folder = tmp_path_factory.mktemp("urls")
    signed = Authority.make(folder, "ours").sign("client")
    key = serialization.load_pem_private_key(signed.key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    written = {
        "locked": encrypted,
        "both": signed.certificate.read_bytes() + signed.key.read_bytes(),
        "text": b"neither",
        "bytes": b"\x00\xff\xfe",
        "passwords": b"# a comment\n*:*:*:u:a\\:b\\\\:c\n",
        "short": b"db:5432:x:u\n",
        "open": b"*:*:*:u:p\n",
    }
    for name, content in written.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o644 if name == "open" else 0o600)
    return {"cert": signed.certificate, "key": signed.key, **{name: folder / name for name in written}}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("sslcert={cert}&sslkey={key}", None),
        ("sslcert={both}", None),
        ("sslcert={cert}&sslkey={locked}&sslpassword=secret", None),
        ("sslcert={cert}&sslkey={locked}", CHAIN),
        ("sslcert={key}&sslkey={cert}", CHAIN),
        ("sslcert={text}&sslkey={bytes}", CHAIN),
        ("sslcert={key}", r"has sslcert, which must be a file in PEM with what it is for"),
        ("sslrootcert={cert}", None),
        ("sslrootcert={key}", r"has sslrootcert, which must be a file in PEM with what it is for"),
        ("sslcrl={bytes}", r"has sslcrl, which must be a file in PEM with what it is for"),
        ("passfile={passwords}", None),
        ("passfile={short}", r"has passfile, which must be a file that only you may read, with lines of host:.*"),
        ("passfile={bytes}", r"has passfile, which must be .*"),
        ("passfile={open}", r"has passfile, which must be .*"),
    ],
)
def test_a_file_that_a_database_url_names_holds_what_it_is_for(
    query: str, sentence: str | None, files: dict[str, Path]
) -> None:
    url = f"postgresql://u@db/x?sslmode=require&{query.format(**files)}"
    if sentence is None:
        read_by_the_driver(url)
        return
    with pytest.raises(UrlError) as told:
        check_database_url(url)
    assert re.fullmatch(sentence, str(told.value))


def test_the_key_of_a_certificate_may_be_the_one_of_libpq(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLKEY", str(files["key"]))
    _, parameters = read_by_the_driver("postgresql://u@db/x?sslmode=require&sslcert={cert}".format(**files))
    assert parameters.ssl


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("certfile={cert}&keyfile={key}&cafile={cert}", None),
        ("certfile={key}&keyfile={cert}", CHAIN_OF_BROKER),
        ("certfile={cert}&keyfile={locked}", CHAIN_OF_BROKER),  # the client would ask the terminal for its password
        ("cafile={text}", r"has cafile, which must be a file in PEM with what it is for"),
        ("capath={cert}", r"has capath, which must be a folder that can be read"),
    ],
)
def test_a_file_that_a_broker_url_names_holds_what_it_is_for(
    query: str, sentence: str | None, files: dict[str, Path]
) -> None:
    url = f"amqps://u@h/v?{query.format(**files)}"
    if sentence is None:
        assert check_broker_url(url) == url
        return
    with pytest.raises(UrlError) as told:
        check_broker_url(url)
    assert re.fullmatch(sentence, str(told.value))


@pytest.mark.parametrize(
    "url",
    [
        "db",
        "mysql://db/x",
        "postgresql:/db/x",
        "postgresql:///x",
        "postgresql://db:x/x",
        "postgresql://[::1/x",
        "postgresql://a,/x",
    ],
)
def test_what_is_no_database_url_is_refused(url: str) -> None:
    with pytest.raises(NoUrlError):
        check_database_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://host",
        "amqp://u:p@host:5672/",
        "amqp://u:p@host:5672/%2F?heartbeat=5",
        "amqp://u:p@[::1]:5672/v",
        "amqps://u@host/v?auth=external&no_verify_ssl=1",
    ],
)
def test_a_broker_url_may_have_what_the_client_obeys(url: str) -> None:
    assert check_broker_url(url) == url


@pytest.mark.parametrize(
    ("path", "vhost"),
    [
        ("", "/"),
        ("/", "/"),
        ("/%2F", "/"),
        ("/%2f", "/"),
        ("/shop", "shop"),
        ("/a%2Fb", "a/b"),
        ("/a%20b", "a b"),
        ("/a%25", "a%"),
    ],
)
async def test_a_virtual_host_is_read_as_pika_and_amqplib_read_it(path: str, vhost: str) -> None:
    url = check_broker_url(f"amqp://u:p@host:5672{path}")
    assert AmqpConnection(url).vhost == vhost
    read_by_pika = pika.URLParameters(url).virtual_host
    assert read_by_pika == vhost


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("amqp://h/v?hartbeat=5", "has the parameter hartbeat, which nobody knows; perhaps heartbeat is meant"),
        ("amqp://h/v?heartbeat=soon", "has heartbeat, which must be a whole number from 0 to 3600"),
        ("amqps://h/v?cacertfile=x", "has the parameter cacertfile, which is cafile here"),
        ("amqps://h/v?cafile=/nowhere", "has cafile, which must be a file that can be read"),
        ("amqp://h/v?xyzzy=100", "has a parameter that is not known: it may have auth, .*"),
        (
            "amqp://h/v?heartbeat=60&connection_attempts=3",
            "has the parameter connection_attempts, which is another .*: .*",
        ),
        (
            "amqp://h/v?blocked_connection_timeout=300",
            "has the parameter blocked_connection_timeout, which is another .*",
        ),
        ("amqps://h/v?ssl_options=%7B%7D", "has the parameter ssl_options, which is another client's: leave it out"),
        ("amqp://h/v?frameMax=8192", "has the parameter frameMax, which is another client's: leave it out"),
        ("amqp://h/v?socket_timeout=5", "has the parameter socket_timeout, which is timeout here"),
        ("amqp://h/%2F/", "has a / behind the name of the virtual host: leave it out, or write it as %2F if .*"),
        ("amqp://h//", "has a / behind the name of the virtual host: leave it out, or write it as %2F if .*"),
        ("amqp://h/a/b", "has a / in the name of the virtual host: write it as %2F"),
        ("amqp://h1,h2/v", "has more than one host"),
        ("amqp://a..b/v", "has a host that cannot be one: .*"),
        ("amqp://h/a%00b", "has %00, which stands in no name and no password"),
        (
            "amqp://h/v?happy_eyeballs_delay=0.1",
            "has the parameter happy_eyeballs_delay, which is another client's: .*",
        ),
        ("amqp://h/v?no_verify_ssl=1", "has no_verify_ssl and begins with amqp://: .*"),
        ("amqps://h/v?certfile={here}", "has only one of certfile and keyfile: both are needed"),
    ],
)
def test_a_mistake_in_a_broker_url_is_told(url: str, sentence: str) -> None:
    with pytest.raises(UrlError) as told:
        check_broker_url(url.format(here=Path(__file__)))
    assert re.fullmatch(sentence, str(told.value))


@pytest.mark.parametrize("check", [check_database_url, check_broker_url], ids=["database", "broker"])
def test_a_password_that_reads_as_a_port_and_a_path_is_refused(check: Callable[[str], str]) -> None:
    scheme = "amqp" if check is check_broker_url else "postgresql"
    with pytest.raises(UrlError, match="where none may be"):
        check(f"{scheme}://saga:7/secret@host:5432/saga")


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("postgresql://u@a:1/db", True),
        ("postgresql://u@a:1,b/db", False),
        ("postgresql:///db?host=a,b", False),
        ("postgresql://u:p,q@[::1]/db", True),
    ],
)
def test_of_several_hosts_one_may_be_unknown_for_now(url: str, is_one: bool) -> None:
    assert has_one_host(url) is is_one
    unknown = socket.gaierror(socket.EAI_NONAME, "unknown")
    assert (mistake_of(unknown, is_only_host=has_one_host(url)) is not None) is is_one


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:pass@host:5672/v", "amqp://user@host:5672/v"),
        ("postgresql://u:p@a:1,b:2/db", "postgresql://u@a:1,b:2/db"),
        ("postgresql:///db?host=/run&user=u&password=secret", "postgresql://u@/run/db"),
        ("amqp://host", "amqp://host"),
        ("sk_live_1", ""),
        ("amqp://user:p@ss@host", ""),
        ("amqp://user:pass/word@host", ""),
        ("amqp://user:12/secret@host", ""),
        ("postgresql://saga:7/secret@postgres:5432/saga", ""),
        ("amqp://user:pass@host:x", ""),
    ],
)
def test_of_a_url_only_who_and_where_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
