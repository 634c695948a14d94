"""Which builds are connected to the broker, read from what `rabbitmqctl list_connections` prints: AMQP has no way to ask."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.cli.output import MISUSED, fail
from shared.build import UNKNOWN, RemitBuild, this_build

COMMAND: Final = "rabbitmqctl list_connections client_properties --formatter json"
CONNECTIONS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Ten thousand connections have about 8 MiB."""


@dataclass(frozen=True, slots=True, order=True)
class ConnectedBuild:
    """A build of a service that has a connection. Builds before 0.1.0 do not tell the broker what they are."""

    service: str
    version: str
    revision: str

    def __str__(self) -> str:
        known = f"{self.version}, revision {self.revision}" if self.version != UNKNOWN else "an earlier build"
        return f"{self.service} ({known})"

    def is_of(self, build: RemitBuild) -> bool:
        return (self.version, self.revision) == (build.version, build.revision)


def connected_builds(file: Path, services: tuple[str, ...]) -> list[ConnectedBuild]:
    """The builds of our services with a connection, each once. `-` is stdin. Raises CliError if it is not what `COMMAND` prints."""
    try:
        text = sys.stdin.read(CONNECTIONS_BYTES_MAX) if str(file) == "-" else file.read_text(encoding="utf-8")
        return builds_in(text, services)
    except OSError as error:
        fail(f"{file}: {error.strerror}.", MISUSED)
    except (ValueError, TypeError, KeyError):
        fail(f"{file} is not what `{COMMAND}` prints.", MISUSED)


def builds_in(text: str, services: tuple[str, ...]) -> list[ConnectedBuild]:
    """The builds of our services in what `COMMAND` printed. Raises ValueError, TypeError or KeyError for anything else."""
    import orjson  # noqa: PLC0415 - `--help` need not pay

    found = set()
    for properties in [_properties(row["client_properties"]) for row in orjson.loads(text)]:
        service = properties.get("connection_name", "").partition(" ")[0]
        if service in services:
            version, revision = (properties.get(f"remit_{name}", UNKNOWN) for name in ("version", "revision"))
            found.add(ConnectedBuild(service, version, revision))
    return sorted(found)


def _properties(triples: Any) -> Mapping[str, str]:
    """The client's properties, which `rabbitmqctl` writes as lists of name, type and value."""
    return {str(name): str(value) for name, _, value in triples}


def others(builds: list[ConnectedBuild]) -> list[ConnectedBuild]:
    """Those that are not of this build."""
    return [one for one in builds if not one.is_of(this_build())]
