"""`python -m shared.observability.probe livez` (or readyz): asks the service in this container; exit code 0 if the answer is yes.

For container engines. It needs no program but Python, and imports next to nothing, since it runs every few seconds.
"""

import http.client
import os
import sys
from typing import Final

TIMEOUT_S: Final = 3.0


def probe(path: str, port: int) -> int:
    """The exit code for an engine: 0 for an answer of 200; otherwise 1, and what is wrong on stdout, which engines keep."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"no answer on port {port}: {type(error).__name__}\n")
        return 1
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return 0
    sys.stdout.write(f"{answer.status} {body}\n")
    return 1


if __name__ == "__main__":
    sys.exit(probe(sys.argv[1], int(os.environ["HEALTH_PORT"])))
