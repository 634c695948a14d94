"""The doctor's look at certificates: which servers speak TLS, and until when their certificates are valid."""

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs, urlsplit

from cryptography import x509

from deploy.doctor.diagnosis import Diagnosis, broken, look, unseen, well
from shared.urls import UrlError, addresses

SOON: Final = timedelta(days=21)
"""Time to get a new one: longer than anybody's holidays."""
TIMEOUT_S: Final = 5.0
_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""PostgreSQL's message that asks for TLS (protocol, "SSLRequest"). The server answers `S` if it speaks it."""
_PORTS: Final = {"amqps": 5671, "https": 443, "postgresql": 5432, "postgres": 5432}
_DEMANDS_TLS: Final = {"require", "verify-ca", "verify-full"}


async def look_at_certificates(variable: str, url: str, now: datetime) -> list[Diagnosis]:
    """What the certificates of the servers that a variable names say about their ends. None if this URL does not demand TLS."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    is_database = parts.scheme in {"postgresql", "postgres"}
    if parts.scheme not in _PORTS or (is_database and not _DEMANDS_TLS & {*query.get("sslmode", ())}):
        return []
    asks_first = is_database and query.get("sslnegotiation") != ["direct"]
    what = f"certificate of {variable}"
    try:
        there = addresses(url)
    except UrlError:
        return [unseen(what, "The URL cannot be read.", f"remit config check, and set {variable} right")]
    names = [what] if len(there) == 1 else [f"{what} at {host}:{port or _PORTS[parts.scheme]}" for host, port in there]
    return [
        await _look(name, host, port or _PORTS[parts.scheme], now, asks_first=asks_first)
        for name, (host, port) in zip(names, there, strict=True)
    ]


async def _look(what: str, host: str, port: int, now: datetime, *, asks_first: bool) -> Diagnosis:
    try:
        until = await asyncio.to_thread(_valid_until, host, port, asks_first=asks_first)
    except (OSError, ValueError) as error:
        return unseen(what, f"It could not be read ({type(error).__name__}).", f"look at the server at {host}:{port}")
    return judge_end(what, until, now)


def judge_end(what: str, until: datetime, now: datetime) -> Diagnosis:
    """Whether a certificate that is valid `until` then needs to be replaced."""
    says = f"It {'was' if until <= now else 'is'} valid until {until:%Y-%m-%d}."
    if until <= now:
        return broken(what, says, "replace it: clients that check it refuse the server")
    return look(what, says, "replace it before then") if until - now < SOON else well(what, says)


def _valid_until(host: str, port: int, *, asks_first: bool) -> datetime:
    """The end of the server's certificate. It is only read: whether to trust it is for the clients, which have their authorities."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), TIMEOUT_S) as plain:
        if asks_first:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise ConnectionError("the server speaks no TLS")
        with context.wrap_socket(plain, server_hostname=host) as wrapped:
            encoded = wrapped.getpeercert(binary_form=True)
    if encoded is None:
        raise ConnectionError("the server has no certificate")
    return x509.load_der_x509_certificate(encoded).not_valid_after_utc.astimezone(UTC)
