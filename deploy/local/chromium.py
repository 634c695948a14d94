"""Chromium for tests of the staff desk: Debian's, since a newcomer's machine has Python and no Node."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deploy.local import debian
from deploy.local.errors import StackError
from deploy.local.scratch import exclusive_lock

_PACKAGE: Final = "chromium-headless-shell"
"""Chromium without a window: a page costs it half the CPU that the whole browser takes (measured)."""
_NAMES: Final = (_PACKAGE, "chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_INSTALL_LOCK_S: Final = 900.0  # another process may be installing it, and RabbitMQ before it


def find_chromium() -> Path | None:
    """The browser that is installed here. None if there is none."""
    return next((Path(found) for name in _NAMES if (found := shutil.which(name)) is not None), None)


def ensure_chromium(say: Callable[[str], None]) -> Path:
    """Installs Chromium if we may, and returns its path. Raises StackError with one sentence that says what to do."""
    if (found := find_chromium()) is not None:
        return found
    if not debian.can_install():
        raise StackError(
            f"There is no Chromium here: install the package {_PACKAGE} (as root on Debian it is done for you)."
        )
    with exclusive_lock("install", deadline_s=_INSTALL_LOCK_S):
        if find_chromium() is None:  # the holder of the lock before may have installed it
            say(f"Chromium is not installed: installing Debian's {_PACKAGE} with apt")
            debian.install(_PACKAGE)
    if (found := find_chromium()) is None:
        raise StackError(f"apt installed the package {_PACKAGE}, and no program of that name is on the PATH.")
    return found
