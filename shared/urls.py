"""One reading of the URLs of databases and of the broker, for services, migrations and tools.

A URL is checked once, before anything is opened: each parameter has to be one that is obeyed here, and each file that it names has to hold
what it is named for. What the drivers would stumble on later is refused here. Errors never show the URL. They are texts that follow the
name of a variable.
"""

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlsplit

from shared.misspelled import distance

SLIP_MOST = 3
"""How many letters a parameter may differ from the one that was meant."""


class UrlError(ValueError):
    """A URL that cannot be used. The text follows the name of its variable. It has no full stop and shows no value."""


class NoUrlError(UrlError):
    """It is no such URL at all."""


Check = Callable[[str], str | None]
"""What a value must be; None if it is that."""


def _one_of(*words: str) -> Check:
    return lambda value: None if value in words else f"one of {', '.join(words)}"


def _number(least: int, most: int) -> Check:
    def check(value: str) -> str | None:
        return None if value.isdecimal() and least <= int(value) <= most else f"a whole number from {least} to {most}"

    return check


def _file(value: str) -> str | None:
    try:
        with Path(value).open("rb"):
            return None
    except (OSError, ValueError):
        return "a file that can be read"


def _password_file(value: str) -> str | None:
    """asyncpg reads only one that is private, and stumbles on a line with fewer fields."""
    must = "a file that only you may read, with lines of host:port:database:user:password"
    try:
        is_private = not Path(value).stat().st_mode & 0o077
        lines = [line.strip().replace(r"\\", "") for line in Path(value).read_text().splitlines()]
    except (OSError, ValueError):
        return must
    fields = [len(re.split(r"(?<!\\):", line)) for line in lines if line and not line.startswith("#")]
    return None if is_private and all(one >= must.count(":") + 1 for one in fields) else must


def _ports(value: str) -> str | None:
    return None if all(_is_port(port) for port in value.split(",")) else "one port, or one for each host"


def _folder(value: str) -> str | None:
    return None if Path(value).is_dir() else "a folder that can be read"


def _text(_value: str) -> None:
    return None


_TLS_VERSION = _one_of("TLSv1.2", "TLSv1.3")
_OF_DATABASE: Mapping[str, Check] = {
    "application_name": _text,
    "channel_binding": _one_of("prefer", "disable"),
    "client_encoding": _one_of("auto", "utf8", "UTF8", "utf-8"),
    "connect_timeout": _number(1, 60),
    "database": _text,
    "dbname": _text,
    "gssencmode": _one_of("prefer", "disable"),
    "host": _text,
    "keepalives": _text,
    "keepalives_count": _text,
    "keepalives_idle": _text,
    "keepalives_interval": _text,
    "options": _text,
    "passfile": _password_file,
    "password": _text,
    "port": _ports,
    "ssl_max_protocol_version": _TLS_VERSION,
    "ssl_min_protocol_version": _TLS_VERSION,
    "sslcert": _file,
    "sslcrl": _file,
    "sslkey": _file,
    "sslmode": _one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": _one_of("postgres", "direct"),
    "sslpassword": _text,
    "sslrootcert": _file,
    "target_session_attrs": _one_of("any", "read-write", "primary", "read-only", "standby", "prefer-standby"),
    "user": _text,
}
"""The parameters of libpq that are obeyed here, or that change nothing here, with what their values must be."""
_NOT_FOR_THE_DRIVER = frozenset(
    {
        *("application_name", "channel_binding", "client_encoding", "connect_timeout", "gssencmode"),
        *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
    }
)
"""asyncpg would send them to the server as settings, and the server would refuse them. The first is obeyed by `database_arguments`."""
_OF_BROKER: Mapping[str, Check] = {
    "auth": _one_of("plain", "external", "PLAIN", "EXTERNAL"),
    "cafile": _file,
    "capath": _folder,
    "certfile": _file,
    "heartbeat": _number(0, 3_600),
    "keyfile": _file,
    "name": _text,
    "no_verify_ssl": _one_of("0", "1"),
    "timeout": _number(1, 60),
}
"""The parameters that aio-pika and aiormq obey."""
_OTHER_NAMES = {
    "ssl": "sslmode",
    "cacertfile": "cafile",
    "ca_certs": "cafile",
    "ssl_cafile": "cafile",
    "connection_timeout": "timeout",
    "socket_timeout": "timeout",
    "stack_timeout": "timeout",
    "auth_mechanism": "auth",
    "verify": "no_verify_ssl",
}
"""What other clients call some of these."""
_OF_OTHERS = frozenset(
    {
        *("backpressure_detection", "blocked_connection_timeout", "channel_max", "connection_attempts", "frame_max"),
        *("locale", "retry_delay", "ssl_options", "tcp_options"),  # pika
        *("happy_eyeballs_delay", "interleave"),  # aio-pika, but not on the event loop of a service
        *("channelMax", "frameMax"),  # amqplib
    }
)
"""What other clients of the broker know, and what nobody here obeys."""
_ESCAPES = "in user and password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23 and % as %25"


def check_database_url(url: str) -> str:
    """The URL, if it can be used. Raises UrlError."""
    parts = _split(url, ("postgresql", "postgres"))
    query = _parameters(parts, _OF_DATABASE)
    _refuse_said_twice(parts, query)
    hosts = _hosts(query["host"] if "host" in query else unquote(parts.netloc.rpartition("@")[2]))
    if not all(host for host, _ in hosts):
        raise NoUrlError
    if query.get("port", "").count(",") not in {0, len(hosts) - 1}:
        raise UrlError("has not as many ports as hosts: it may have one for all, or one for each")
    _check_tls_of_database(query)
    return url


def _refuse_said_twice(parts: SplitResult, query: Mapping[str, str]) -> None:
    """Of what stands before the ? as well, the driver would obey one and say nothing of the other."""
    hosts, path = parts.netloc.rpartition("@")[2], parts.path.strip("/")
    before = {"host": hosts, "port": hosts, "user": parts.username, "password": parts.password}
    before |= {"database": path, "dbname": path}
    twice = [name for name in query if before.get(name)]
    if twice and twice[0] == "port":
        raise UrlError("has port as a parameter: write it behind the host, as host:5433")
    if twice:
        raise UrlError(f"has {twice[0]} as a parameter, and names it before the ? as well: leave one out")


def _check_tls_of_database(query: Mapping[str, str]) -> None:
    if query.get("sslmode") in {"verify-ca", "verify-full"} and "sslrootcert" not in query:
        raise UrlError(
            f"has sslmode={query['sslmode']} and no sslrootcert: it must name the file with the authority's certificate"
        )
    if ("sslkey" in query) and ("sslcert" not in query):
        raise UrlError("has sslkey and no sslcert: both are needed")
    if query.get("ssl_min_protocol_version", "") > query.get("ssl_max_protocol_version", "TLSv1.3"):
        raise UrlError("has an ssl_min_protocol_version above its ssl_max_protocol_version")
    _check_authorities(query, "sslrootcert", "sslcrl")
    if "sslkey" in query:
        _check_certificate(query, "sslcert", "sslkey", password=query.get("sslpassword", ""))
    else:  # the driver takes the key of PGSSLKEY, or the one in ~/.postgresql
        _check_authorities(query, "sslcert")


def _check_authorities(query: Mapping[str, str], *names: str) -> None:
    for name in names:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(query[name]) if name in query else None
        except OSError:
            raise UrlError(f"has {name}, which must be a file in PEM with what it is for") from None


def _check_certificate(query: Mapping[str, str], certificate: str, key: str, *, password: str = "") -> None:
    """Raise UrlError if they are swapped, no PEM, not of each other, or need another password. OpenSSL would ask the terminal for one."""
    if certificate not in query:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(query[certificate], query.get(key), lambda: password)
    except (OSError, ValueError):
        secret = "needs sslpassword" if certificate == "sslcert" else "cannot be read"
        raise UrlError(
            f"has {certificate}, which must be a certificate in PEM, and {key} its key in PEM; a key with a password {secret}"
        ) from None


def addresses(url: str) -> list[tuple[str, int | None]]:
    """The hosts that a URL names, each with its port; None for the usual one. Sockets are left out. Raises UrlError."""
    try:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    except ValueError:
        raise NoUrlError from None
    hosts = _hosts(unquote(parts.netloc.rpartition("@")[2]) or query.get("host", ""))
    ports: list[int | None] = [int(port) for port in query.get("port", "").split(",") if _is_port(port)]
    given = ports if len(ports) > 1 else (ports or [None]) * len(hosts)
    return [(host, own or port) for (host, own), port in zip(hosts, given, strict=False) if not host.startswith("/")]


def has_one_host(url: str) -> bool:
    """Whether a database URL that was checked names one host, and not several of which one is the primary."""
    parts = urlsplit(url)
    return "," not in unquote(parts.netloc.rpartition("@")[2]) + "".join(parse_qs(parts.query).get("host", ()))


def check_broker_url(url: str) -> str:
    """The URL, if it can be used. Raises UrlError."""
    parts = _split(url, ("amqp", "amqps"))
    query = _parameters(parts, _OF_BROKER)
    ((host, _),) = _hosts(parts.netloc.rpartition("@")[2], most=1)
    if not host:
        raise NoUrlError
    if parts.path.count("/") > 1 and parts.path.endswith("/"):
        raise UrlError(
            "has a / behind the name of the virtual host: leave it out, or write it as %2F if the name has it"
        )
    if parts.path.count("/") > 1:
        raise UrlError("has a / in the name of the virtual host: write it as %2F")
    tls = {"cafile", "capath", "certfile", "keyfile", "no_verify_ssl"} & query.keys()
    if parts.scheme == "amqp" and tls:
        raise UrlError(f"has {min(tls)} and begins with amqp://: TLS is spoken where it begins with amqps://")
    if ("keyfile" in query) != ("certfile" in query):
        raise UrlError("has only one of certfile and keyfile: both are needed")
    _check_authorities(query, "cafile")
    _check_certificate(query, "certfile", "keyfile")
    return url


def _split(url: str, schemes: Sequence[str]) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket without its other one
        raise NoUrlError from None
    if parts.scheme not in schemes or "://" not in url or any(letter.isspace() for letter in url):
        raise NoUrlError
    if "%00" in url:
        raise UrlError("has %00, which stands in no name and no password")
    if parts.fragment or "#" in url or parts.netloc.count("@") > 1 or "@" in parts.path:
        raise UrlError(f"has a # or @ where none may be: {_ESCAPES}")
    return parts


def _parameters(parts: SplitResult, known: Mapping[str, Check]) -> dict[str, str]:
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise UrlError("has a parameter without a value: write NAME=VALUE, separated by &") from None
    query = dict(pairs)
    for name, value in query.items():
        if name not in known:
            raise UrlError(_unknown(name, known))
        if (must := known[name](value)) is not None:
            raise UrlError(f"has {name}, which must be {must}")
    return query


def _unknown(name: str, known: Mapping[str, Check]) -> str:
    """The sentence about a parameter that nobody knows. It may be the rest of a password, so it is shown only if it is like a known one."""
    meant = _OTHER_NAMES.get(name)
    if meant in known:
        return f"has the parameter {name}, which is {meant} here"
    if name in _OF_OTHERS:
        return f"has the parameter {name}, which is another client's: leave it out"
    near = min(known, key=lambda one: distance(name, one))
    if distance(name, near) <= min(SLIP_MOST, len(near) // 2):
        return f"has the parameter {name}, which nobody knows; perhaps {near} is meant"
    return f"has a parameter that is not known: it may have {', '.join(known)}"


def _hosts(text: str, *, most: int = 100) -> list[tuple[str, int | None]]:
    """The hosts, each with its port; raises UrlError for what is none."""
    hosts = [_host(one) for one in text.split(",")]
    if len(hosts) > most:
        raise UrlError("has more than one host")
    return hosts


def _host(text: str) -> tuple[str, int | None]:
    if text.startswith("/"):  # the folder of a socket
        return text, None
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        port = port.removeprefix(":")
        if not closed:
            raise NoUrlError
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise UrlError(f"has more than one : in its address: write an IPv6 address as [::1], and {_ESCAPES}")
    if port and not _is_port(port):
        raise NoUrlError
    try:
        host.encode("idna")  # as the event loop does, which stumbles on an empty part and on one above 63 letters
    except UnicodeError:
        raise UrlError("has a host that cannot be one: between its dots are 1 to 63 letters") from None
    return host, int(port) if port else None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**16


def database_arguments(url: str, *, name: str, timeout_s: float) -> dict[str, Any]:
    """The arguments for `asyncpg.connect` and `asyncpg.create_pool`, made of a URL that was checked.

    `name` shows in pg_stat_activity, with an application_name of the URL behind it. `timeout_s` is the time to connect if the URL has no
    connect_timeout.
    """
    parts = urlsplit(url)
    given = {one: values[-1] for one, values in parse_qs(parts.query, keep_blank_values=True).items()}
    kept = "&".join(one for one in parts.query.split("&") if one.partition("=")[0] not in _NOT_FOR_THE_DRIVER)
    own_name = given.get("application_name")
    return {
        "dsn": parts._replace(query=kept).geturl(),
        "timeout": float(given.get("connect_timeout", timeout_s)),
        "server_settings": {"application_name": f"{name} {own_name}" if own_name else name},
    }


def without_password(url: str) -> str:
    """A URL as it may be shown: whom it connects as, and where. Empty if it is none that can be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    login, _, hosts = parts.netloc.rpartition("@")
    if "://" not in url or "@" in login + parts.path + parts.fragment or not parts.scheme:
        return ""  # what stands before an @ may be a password with a sign that is not escaped
    try:
        for host in unquote(hosts).split(","):
            _host(host)
    except UrlError:
        return ""
    query = parse_qs(parts.query)
    user = login.partition(":")[0] or query.get("user", [""])[-1]
    return f"{parts.scheme}://{user}{'@' if user else ''}{hosts or query.get('host', [''])[-1]}{parts.path}"
