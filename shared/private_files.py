"""Files with secrets, which nobody may read or change but those for whom they are."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

MODE: Final = 0o600
_OF_OURS, _THROUGH_A_GROUP = 0o700, 0o740


class SharedFileError(PermissionError):
    """Somebody else can read or change the file. The text says so of it, and names the way out: `can be ... by others (...): ...`."""


def write_private(path: Path, text: str) -> None:
    """Write a new file with secrets. Raises FileExistsError."""
    path.touch(mode=MODE, exist_ok=False)
    path.write_text(text, encoding="utf-8")


def open_private(path: Path, flags: int = os.O_RDONLY, *, is_of_others: bool = False) -> int:
    """Open a file with secrets; returns its descriptor. A new file gets `MODE`.

    `is_of_others`: somebody else may have made it, and then a group of ours may read it: so Kubernetes mounts a secret (root, `fsGroup`,
    0440, behind a symbolic link). Otherwise it must be our own, and no symbolic link, which could lead to anybody's.

    Raises SharedFileError, and OSError.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | (0 if is_of_others else os.O_NOFOLLOW), MODE)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SharedFileError("is a symbolic link, which others may turn: name the file itself") from None
    try:
        _refuse_if_shared(path, os.fstat(descriptor), is_of_others=is_of_others)
    except SharedFileError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_if_shared(path: Path, file: os.stat_result, *, is_of_others: bool) -> None:
    is_ours = file.st_uid == os.geteuid()
    if not is_ours and not is_of_others:
        raise SharedFileError(f"belongs to another user (uid {file.st_uid}): have it made anew, or `chown` it")
    through_group = not is_ours and file.st_gid in {os.getegid(), *os.getgroups()}
    mode = stat.S_IMODE(file.st_mode)
    if mode & ~(_THROUGH_A_GROUP if through_group else _OF_OURS):
        chmod = f"`chmod {'0440' if through_group else '0600'} {path}`"
        raise SharedFileError(f"can be read or changed by others (mode {mode:04o}): {chmod}")
