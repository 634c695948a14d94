"""promtool of Debian's package `prometheus`, which is installed where we may; its service is not started."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.local import debian
from deploy.local.errors import StackError
from deploy.local.scratch import exclusive_lock

INSTALL_LOCK_S = 900.0
TIMEOUT_S = 60.0


def promtool() -> str:
    """Where it is. Skips the test if it is missing and may not be installed."""
    if shutil.which("promtool") is None and debian.can_install():
        with exclusive_lock("install", deadline_s=INSTALL_LOCK_S):
            try:
                debian.install("prometheus")
            except StackError as error:
                pytest.skip(f"promtool is missing, and its package cannot be installed here: {error}")
    found = shutil.which("promtool")
    if found is None:
        pytest.skip(
            "promtool is missing: install the package prometheus (as root on Debian and Ubuntu it is done for you)"
        )
    return found


def run(*arguments: str) -> str:
    """What promtool says. Raises AssertionError with it if it finds a mistake."""
    done = subprocess.run((promtool(), *arguments), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def check_rules(folder: Path, rules: Path, tests: list[Mapping[str, Any]]) -> None:
    """Run these unit tests of the rules (https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/)."""
    file = folder / "tests.json"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    run("test", "rules", str(file))
