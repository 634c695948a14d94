"""Node.js with packages of npm, for tests of what others use. A test is skipped, with a sentence, where there is none."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.local.scratch import exclusive_lock

FOLDER = Path(__file__).parents[2] / ".remit" / "node"
PINNED = {
    "@asyncapi/parser": "3.6.6",
    "cloudevents": "10.0.0",
    "amqplib": "2.3.1",
    "ajv": "8.20.0",
    "ajv-formats": "3.0.1",
}
INSTALLED_WITHIN_S = 600
"""The timeout of a test that may have to wait for npm."""
_NPM_S = 240
_RUN_S = 60


def modules(*names: str) -> Path:
    """The folder in which a script finds these packages, in their pinned versions. They are installed once."""
    wanted = [f"{name}@{PINNED[name]}" for name in names]
    folder = FOLDER / hashlib.sha256(" ".join(wanted).encode()).hexdigest()[:16]
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is missing: install node and npm, and what others send with it is tested, too")
    with exclusive_lock(f"node-{folder.name}", deadline_s=_NPM_S):
        if not (folder / "ready").exists():
            _install(folder, wanted)
    return folder


def _install(folder: Path, wanted: list[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    quiet = [
        "--no-save",
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--fetch-retries=1",
        "--fetch-timeout=30000",
    ]
    try:
        subprocess.run(
            ["npm", "install", "--prefix", folder, *quiet, *wanted], check=True, capture_output=True, timeout=_NPM_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(
            f"npm does not get {', '.join(wanted)}: give it a registry, and what others send with them is tested, too"
        )
    (folder / "ready").touch()


def run(folder: Path, script: str, given: Any) -> Any:
    """What the script writes as JSON. It gets `given` as JSON on its standard input, in the variable `given`."""
    head = "const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
    path = folder / f"{hashlib.sha256(script.encode()).hexdigest()[:16]}.cjs"
    path.write_text(head + script, encoding="utf-8")
    done = subprocess.run(
        ["node", path], input=json.dumps(given), capture_output=True, text=True, timeout=_RUN_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
