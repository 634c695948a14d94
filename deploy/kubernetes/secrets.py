"""`python -m deploy.kubernetes.secrets | kubectl create -f -` draws every password that the manifests refer to.

Arguments name further users of the broker: senders and listeners. `create` refuses a secret that exists, so a second run changes no
password. The key of the gateway is yours: see README.md.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Final

from deploy.kubernetes.resources import SCALER, Resource, dns_name, text_of
from deploy.permissions.broker import broker_users
from deploy.permissions.databases import SERVICES, roles
from deploy.permissions.passwords import new_password

ROLES: Final = tuple(dict.fromkeys(role for service in SERVICES for role in roles(service)))
"""Every role of PostgreSQL."""


def secrets(others: Iterable[str] = ()) -> Iterator[Resource]:
    """A secret with `username` and `password` for each user of the broker, `others` among them, and each role of the databases."""
    users = [user.name for user in (*broker_users(senders=others), SCALER)]
    for server, names in (("rabbitmq", users), ("postgres", ROLES)):
        for name in names:
            yield {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": dns_name(f"{server}-{name}")},
                "type": "kubernetes.io/basic-auth",
                "stringData": {"username": name, "password": new_password()},
            }


if __name__ == "__main__":
    sys.stdout.write(text_of(secrets(sys.argv[1:])))
