"""Reads and waits for the `/readyz` of services."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Sequence

from deploy.local.stack import SERVICES
from tests.faults.testbed import Testbed

PROBE_TIMEOUT_S = 5.0
READY_WITHIN_S = 60.0
"""How long readiness may take, on a machine that others use, too."""
NOT_READY_WITHIN_S = 60.0
"""The longest time until a service notices (10 s each for a silence and a confirm, 15 s for a statement), on a loaded machine."""


async def reasons(testbed: Testbed, name: str) -> str | None:
    """Why an instance is not ready; None if it is."""
    return await asyncio.to_thread(_reasons, testbed.ports[name])


def _reasons(port: int) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PROBE_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError as error:
        return f"no answer: {type(error).__name__}"


async def until_ready(testbed: Testbed, *names: str) -> None:
    """Wait until these instances are ready; by default one of each service."""
    for name in names or SERVICES:

        async def ready(name: str = name) -> bool:
            return await reasons(testbed, name) is None

        await testbed.until(ready, what=f"{name} is ready", within_s=READY_WITHIN_S)


async def until_not_ready(testbed: Testbed, name: str, because: Sequence[str]) -> None:
    """Wait until an instance is not ready and names one of these components."""

    async def says() -> bool:
        said = await reasons(testbed, name)
        return said is not None and any(f'"{component}' in said for component in because)

    await testbed.until(says, what=f"{name} is not ready", within_s=NOT_READY_WITHIN_S)
