"""`python -m deploy.compose.draw_secrets shop,crm`: the first job of `deploy/compose.yaml`. It draws what is missing, and keeps the rest.

The first argument names the upstream systems, which send commands and listen to events. With a second one, `yes`, the broker's users may
also do what those of the build before need (`remit permissions rabbitmq --upgrading`).

Each process of the system finds its own secrets in a volume of its own, one file a variable. So no secret stands in an image, in the
environment of a container, or in the volume of another process. The drawing is made whole before anything else starts.

    setup/passwords, setup/VARIABLE      the passwords of all, and the URLs of the set-up
    rabbitmq/definitions.json            users and permissions, with salted hashes
    postgres/password                    of the superuser, whom only the set-up uses
    SERVICE/VARIABLE                     the URLs of this service; with the keys that payment_gateway needs
    door/VARIABLE                        the URL of the door
    remit/ROLE/VARIABLE                  the same for whoever types `remit`, by user and role
"""

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.permissions.broker import AUDIT, SETUP, NameRefusedError, broker_users, definitions
from deploy.permissions.databases import DOOR, PURGE, SERVICES, roles
from deploy.permissions.passwords import kept_passwords
from shared.card_data.encryption import generate_keyset
from shared.private_files import MODE
from shared.settings import database_variable

FOLDER: Final = Path("/secrets")
ADMINISTRATOR: Final = "postgres"
OPERATOR: Final = "remit"
"""The sender as whom `remit invoice pay` sends, and the volume of whoever types `remit`."""
VHOST: Final = "/"
READABLE: Final = 0o444
"""For servers, which run as users of their own. No other process sees their volumes."""
PRIVATE_KEY_SET: Final = "card-keys.json"
PUBLIC_KEY_SET: Final = "card-keys.public.json"
API_KEY: Final = "GATEWAY_API_KEY"
MISUSED: Final = 2


def draw(folder: Path, upstream: Sequence[str], *, upgrading: bool = False) -> None:
    """Write all secrets below `folder`, which has a folder for each process. `upstream` are the systems that send and listen.

    Can be repeated: what is there stays as it is. Raises NameRefusedError, and OSError.
    """
    users = broker_users(senders=(OPERATOR, *upstream), listeners=upstream, upgrading=upgrading)
    names = {user.name for user in users} | {role for service in SERVICES for role in roles(service)} | {ADMINISTRATOR}
    passwords = kept_passwords(folder / "setup" / "passwords", sorted(names))
    _write(folder / "postgres" / "password", passwords[ADMINISTRATOR], mode=READABLE)
    imported = json.dumps(definitions(users, VHOST, passwords))
    _write(folder / "rabbitmq" / "definitions.json", imported, mode=READABLE)
    for path, text in _urls(passwords, upstream):
        _write(folder / path, text)
    _draw_keys(folder)


def _urls(passwords: Mapping[str, str], upstream: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each file with a URL, and the URL."""

    def broker(user: str) -> str:
        return f"amqp://{user}:{passwords[user]}@rabbitmq:5672/%2F"

    def database(service: str, role: str) -> str:
        return f"postgresql://{role}:{passwords[role]}@postgres:5432/{service}"

    yield "setup/RABBITMQ_URL", broker(SETUP)
    for user in (OPERATOR, AUDIT, *upstream):
        yield f"{OPERATOR}/{user}/RABBITMQ_URL", broker(user)
    yield f"{DOOR}/{database_variable('invoice')}", database("invoice", DOOR)
    for service in SERVICES:
        variable = database_variable(service)
        yield f"setup/{variable}", database(service, ADMINISTRATOR)
        yield f"{service}/RABBITMQ_URL", broker(service)
        yield f"{service}/{variable}", database(service, service)
        for role in (service, AUDIT, PURGE):
            yield f"{OPERATOR}/{role}/{variable}", database(service, role)


def _draw_keys(folder: Path) -> None:
    """The key of the sandbox gateway, for the service and for `remit reconcile`; and a pair of keys for encrypted cards."""
    gateway, operator = folder / "payment_gateway", folder / OPERATOR
    if not (operator / API_KEY).exists():
        key = f"sk_test_{secrets.token_hex(16)}"
        _write(gateway / API_KEY, key)
        _write(operator / API_KEY, key)  # last: with it, both are there
    if not (gateway / PRIVATE_KEY_SET).exists():
        public, private = generate_keyset(None)
        # The public one first: with it alone, the next run would draw both anew.
        _write(operator / PUBLIC_KEY_SET, json.dumps(public))
        _write(gateway / PRIVATE_KEY_SET, json.dumps(private))


def _write(path: Path, text: str, *, mode: int = MODE) -> None:
    """Write the file so that it appears whole and with its mode: a job that is ended meanwhile leaves no half of it."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=MODE, exist_ok=False)
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(mode)
    draft.replace(path)


def main() -> int:
    """Returns the exit code."""
    upstream, upgrading = [name.strip() for name in sys.argv[1].split(",")], sys.argv[2:] == ["yes"]
    try:
        draw(FOLDER, upstream, upgrading=upgrading)
    except NameRefusedError as error:
        sys.stderr.write(f"UPSTREAM: {error}\n")
        return MISUSED
    sys.stdout.write(f"Users and roles have passwords. Upstream systems: {', '.join(upstream)}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
