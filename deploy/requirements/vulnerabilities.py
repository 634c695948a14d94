"""`make vulnerabilities`: asks pip-audit, and tells "something is vulnerable" from "nobody answered". Needs nothing but Python."""

import json
import subprocess
import sys
from typing import Final

TIMEOUT_S: Final = 300.0
FOUND: Final = 1
"""The exit code if something in the lock has a known vulnerability."""
SOURCES: Final = ("pypi", "osv")
"""Where pip-audit asks, in this order."""


def main(pip_audit: str, lock: str) -> int:
    """Ask one source after the other until one answers; returns the exit status."""
    for source in SOURCES:
        command = (
            pip_audit,
            "-r",
            lock,
            "--require-hashes",
            "--disable-pip",
            "-f",
            "json",
            "--progress-spinner",
            "off",
            "-s",
            source,
        )
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            report = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            continue  # it prints no report if its source does not answer
        found = [
            (one["name"], one["version"], bad["id"]) for one in report["dependencies"] for bad in one.get("vulns", ())
        ]
        for name, version, advisory in found:
            print(f"{name} {version}: {advisory}")  # noqa: T201 - it is a program
        print(f"{len(report['dependencies'])} packages, {len(found)} known vulnerabilities (asked: {source}).")  # noqa: T201
        return FOUND if found else 0
    print("Skipped: no advisory source answers here. Run it where one does.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
