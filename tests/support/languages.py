"""The languages of the examples for senders: what each needs on this machine, and how an example becomes a program that runs.

What is missing is installed where we may, as Chromium is; else the test is skipped with a sentence.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from deploy.local import debian
from deploy.local.scratch import exclusive_lock
from tests.support.environment import ROOT

EXAMPLES: Final = ROOT / "shared" / "kit" / "examples"
JAVA: Final = Path("/usr/share/java")
JARS: Final = tuple(JAVA / name for name in ("amqp-client.jar", "gson.jar", "slf4j-api.jar"))
GO: Final = Path("/usr/share/gocode")
INSTALL_LOCK_S: Final = 900.0
BUILD_S: Final = 180.0
"""Longer than a compiler takes on a busy machine, and longer than npm waits for a registry."""

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Language:
    """`file` is the example. `needs` are programs and files that have to be there, which Debian's `packages` bring."""

    file: str
    prepare: Callable[[Path], Command]
    needs: tuple[str | Path, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        return all(one.exists() if isinstance(one, Path) else shutil.which(one) for one in self.needs)

    def program(self, folder: Path) -> Command:
        """The example as a command without its arguments. Skips the test where the language cannot be had."""
        if not self.is_there and debian.can_install():
            with exclusive_lock("install", deadline_s=INSTALL_LOCK_S):
                if not self.is_there:
                    debian.install(*self.packages)
        if not self.is_there:
            pytest.skip(f"{self.file} needs the packages {' '.join(self.packages)}")
        shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)
        return self.prepare(folder)


def _build(folder: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )


def _python(folder: Path) -> Command:
    return sys.executable, str(folder / "pay.py")


def _node(folder: Path) -> Command:
    installed = _build(folder, "npm", "install", "--silent", "--no-audit", "--no-fund")
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install amqplib here: {installed.stderr.strip()[-200:]}")
    return "node", str(folder / "pay.mjs")


def _shell(folder: Path) -> Command:
    return (str(folder / "pay.sh"),)


def _java(folder: Path) -> Command:
    path = ":".join(map(str, JARS))
    built = _build(folder, "javac", "-Xlint:all", "-Werror", "-cp", path, "-d", ".", "Pay.java")
    assert built.returncode == 0, built.stderr
    return "java", "-cp", f"{path}:{folder}", "Pay"


def _go(folder: Path) -> Command:
    go = {"GO111MODULE": "off", "GOPATH": str(GO), "GOCACHE": str(folder / "cache"), "GOFLAGS": "-buildvcs=false"}
    built = _build(folder, "go", "build", "-o", "pay-go", "pay.go", **go)
    assert built.returncode == 0, built.stderr
    return (str(folder / "pay-go"),)


LANGUAGES: Final = {
    "python": Language("pay.py", _python),
    "node": Language("pay.mjs", _node, ("node", "npm"), ("nodejs", "npm")),
    "shell": Language(
        "pay.sh",
        _shell,
        ("amqp-publish", "jq", Path("/usr/share/perl5/Crypt/JWT.pm")),
        ("amqp-tools", "jq", "libcrypt-jwt-perl"),
    ),
    "java": Language(
        "Pay.java",
        _java,
        ("java", "javac", *JARS),
        ("default-jdk-headless", "librabbitmq-client-java", "libgoogle-gson-java", "libslf4j-java"),
    ),
    "go": Language(
        "pay.go",
        _go,
        ("go", GO / "src/github.com/rabbitmq/amqp091-go"),
        ("golang-go", "golang-github-rabbitmq-amqp091-go-dev"),
    ),
}
