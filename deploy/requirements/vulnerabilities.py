"""`make vulnerabilities`: asks pip-audit, and tells "something is vulnerable" from "nobody answered"."""

import json
import subprocess
import sys
from typing import Any, Final

TIMEOUT_S: Final = 300.0
FOUND: Final = 1
"""The exit code if something in the lock has a known vulnerability."""
SOURCES: Final = ("pypi", "osv")
"""Where pip-audit asks, in this order."""


def main(python: str, lock: str) -> int:
    """Ask one source after the other until one answers; returns the exit status."""
    for source in SOURCES:
        packages = ask(python, lock, source)
        checked = [one for one in packages if "skip_reason" not in one]
        if not checked:
            continue  # it does not answer, or knows none of them
        found = [(one, bad["id"]) for one in checked for bad in one["vulns"]]
        for one, advisory in found:
            say(f"{one['name']} {one['version']}: {advisory}")
        for one in packages:
            if "skip_reason" in one:
                say(f"{one['name']} was not checked: {one['skip_reason']}")
        say(
            f"{len(checked)} of {len(packages)} packages checked, {len(found)} known vulnerabilities (asked: {source})."
        )
        return FOUND if found else 0
    say("Skipped: no advisory source answers here. Run it where one does.")
    return 0


def ask(python: str, lock: str, source: str) -> list[dict[str, Any]]:
    """What pip-audit tells of each package of the lock; nothing if the source does not answer, since then it prints no report."""
    words = ("--require-hashes", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-r", lock, "-s", source)
    command = (python, "-m", "pip_audit", *words)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        return []
    return packages


def say(line: str) -> None:
    """Print a line."""
    print(line)  # noqa: T201 - it is a program


if __name__ == "__main__":
    sys.exit(main(sys.executable, sys.argv[1]))
