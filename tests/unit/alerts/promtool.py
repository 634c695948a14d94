"""promtool of Debian's package `prometheus`, which is installed where we may; its service is not started."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.programs import program

TIMEOUT_S = 60.0


def run(*arguments: str) -> str:
    """What promtool says. Raises AssertionError with it if it finds a mistake."""
    done = subprocess.run(
        (program("promtool", "prometheus"), *arguments), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def check_rules(folder: Path, rules: Path, tests: list[Mapping[str, Any]]) -> None:
    """Run these unit tests of the rules (https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/)."""
    file = folder / "tests.json"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    run("test", "rules", str(file))
