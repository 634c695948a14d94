"""The doctor's look at certificates: which servers speak TLS, and until when their certificates are valid."""

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs, urlsplit

from cryptography import x509

from deploy.doctor.diagnosis import Diagnosis, broken, look, unseen, well

SOON: Final = timedelta(days=21)
"""Time to get a new one: longer than anybody's holidays."""
TIMEOUT_S: Final = 5.0
_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""PostgreSQL's message that asks for TLS (protocol, "SSLRequest"). The server answers `S` if it speaks it."""
_PORTS: Final = {"amqps": 5671, "https": 443, "postgresql": 5432, "postgres": 5432}
_DEMANDS_TLS: Final = {"require", "verify-ca", "verify-full"}


async def look_at_certificate(variable: str, url: str, now: datetime) -> Diagnosis | None:
    """What the certificate of the server that a variable names says about its end. None: this URL does not demand TLS."""
    parts = urlsplit(url)
    asks_first = parts.scheme in {"postgresql", "postgres"}
    if asks_first and not _DEMANDS_TLS & {
        *parse_qs(parts.query).get("sslmode", ()),
        *parse_qs(parts.query).get("ssl", ()),
    }:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    try:
        port = parts.port or _PORTS[parts.scheme]
        until = await asyncio.to_thread(_valid_until, parts.hostname, port, asks_first=asks_first)
    except (OSError, ValueError) as error:
        return unseen(
            f"certificate of {variable}",
            f"It could not be read ({type(error).__name__}).",
            f"look at the server of {variable}",
        )
    return judge_end(f"certificate of {variable}", until, now)


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
