"""Programs of Debian's packages, which tests and fault runs run where they are or may be installed. No service of them is started."""

import os
import shutil

import pytest

from deploy.local import debian
from deploy.local.errors import StackError
from deploy.local.scratch import exclusive_lock

INSTALLED_WITHIN_S = 900
"""The timeout of a test that may have to wait for an installation, its own or that of a test beside it."""
_LOCK_DEADLINE_S = 800.0


def program(name: str, package: str) -> str:
    """Where it is, `/usr/sbin` included. It is installed where we may. Skips the test if it is missing all the same."""
    try:
        return installed(name, package)
    except StackError as error:
        pytest.skip(str(error))


def installed(name: str, package: str) -> str:
    """The same for what is no test. Raises StackError with one sentence if it is missing."""
    if _found(name) is None and debian.can_install():
        with exclusive_lock("install", deadline_s=_LOCK_DEADLINE_S):
            if _found(name) is None:  # a test beside this one may have installed it meanwhile
                _install(name, package)
    found = _found(name)
    if found is None:
        raise StackError(
            f"{name} is missing: install the package {package} (as root on Debian and Ubuntu it is done for you)"
        )
    return found


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _install(name: str, package: str) -> None:
    try:
        debian.install(package)
    except StackError as error:
        raise StackError(f"{name} is missing, and its package cannot be installed here: {error}") from None
