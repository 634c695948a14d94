"""Passwords of users and roles: kept in one file of their owner, and told to the servers as salted hashes only."""

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.private_files import SharedFileError, open_private

_SCRAM_ITERATIONS: Final = 4096  # PostgreSQL's own default
_SALT_BYTES: Final = 16
_RABBITMQ_SALT_BYTES: Final = 4  # RabbitMQ's own format


def new_password() -> str:
    """32 characters that need no quoting in a URL, a shell or SQL."""
    return secrets.token_hex(16)


def kept_passwords(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The passwords of `names` in the file at `path`, one `name=password` a line. Those that are missing are drawn and added.

    The file must be our own, and nobody else may read it: see `open_private`. Raises OSError with the path in its text, and ValueError for
    a line of another form.
    """
    try:
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except SharedFileError as error:
        raise PermissionError(f"{path} {error}") from None
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        file.seek(0)
        text = file.read()
        kept = dict(_line(path, line) for line in text.splitlines() if line.strip())
        missing = {name: new_password() for name in names if name not in kept}
        if text and not text.endswith("\n"):
            file.write("\n")
        file.writelines(f"{name}={password}\n" for name, password in missing.items())
        file.flush()
        os.fsync(file.fileno())  # a server that has been told a password keeps it, so it must not be lost here
    return kept | missing


def _line(path: Path, line: str) -> tuple[str, str]:
    name, equals, password = line.strip().partition("=")
    if not (name and equals and password):
        raise ValueError(f"{path}: each line must be name=password")
    return name, password


def rabbitmq_hash(password: str) -> str:
    """The salted hash that RabbitMQ keeps (rabbitmq.com/docs/passwords, `rabbit_password_hashing_sha256`)."""
    salt = secrets.token_bytes(_RABBITMQ_SALT_BYTES)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def postgresql_verifier(password: str) -> str:
    """The SCRAM-SHA-256 verifier that PostgreSQL keeps (RFC 5803). The password must be ASCII, as `new_password` gives it."""
    salt = secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    in_base64 = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{in_base64[0]}${in_base64[1]}:{in_base64[2]}"
