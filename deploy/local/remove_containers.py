"""Removes the containers named in its arguments. The supervisor runs this file after everything else has ended."""

import contextlib
import sys

from docker.errors import NotFound  # type: ignore[import-untyped]  # it ships no types
from testcontainers.core.docker_client import DockerClient


def main(names: list[str]) -> None:
    """Removes containers with their volumes, running or not."""
    client = DockerClient().client
    for name in names:
        with contextlib.suppress(NotFound):
            client.containers.get(name).remove(force=True, v=True)
    client.close()


if __name__ == "__main__":
    main(sys.argv[1:])
