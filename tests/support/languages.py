"""The languages of the examples for senders: what each needs on this machine.

What is missing is installed where we may, as Chromium is; else the test is skipped with a sentence.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from deploy.local import debian
from deploy.local.scratch import exclusive_lock

JAVA: Final = Path("/usr/share/java")
INSTALL_LOCK_S: Final = 900.0
"""Another process may be installing something."""


@dataclass(frozen=True, slots=True)
class Language:
    """`file` is the example. `needs` are programs and files that have to be there, which Debian's `packages` bring."""

    file: str
    needs: tuple[str | Path, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        return all(one.exists() if isinstance(one, Path) else shutil.which(one) for one in self.needs)

    def require(self) -> None:
        """Have it here. Skips the test where it cannot be had."""
        if not self.is_there and debian.can_install():
            with exclusive_lock("install", deadline_s=INSTALL_LOCK_S):
                if not self.is_there:
                    debian.install(*self.packages)
        if not self.is_there:
            pytest.skip(f"{self.file} needs the packages {' '.join(self.packages)}")


LANGUAGES: Final = {
    "Python": Language("pay.py"),
    "Node": Language("pay.mjs", ("node", "npm"), ("nodejs", "npm")),
    "Java": Language(
        "Pay.java",
        ("java", "javac", *(JAVA / name for name in ("amqp-client.jar", "gson.jar", "slf4j-api.jar"))),
        ("default-jdk-headless", "librabbitmq-client-java", "libgoogle-gson-java", "libslf4j-java"),
    ),
    "Go": Language(
        "pay.go",
        ("go", Path("/usr/share/gocode/src/github.com/rabbitmq/amqp091-go")),
        ("golang-go", "golang-github-rabbitmq-amqp091-go-dev"),
    ),
    "shell": Language(
        "pay.sh",
        ("amqp-publish", "jq", Path("/usr/share/perl5/Crypt/JWT.pm")),
        ("amqp-tools", "jq", "libcrypt-jwt-perl"),
    ),
}
