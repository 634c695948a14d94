"""Passwords stay in the file of their owner; servers get salted hashes."""

import base64
import hashlib
import os
from pathlib import Path

import pytest

from deploy.permissions.passwords import kept_passwords, postgresql_verifier, rabbitmq_hash


def test_missing_passwords_are_drawn_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    first = kept_passwords(path, ["saga", "staff"])
    again = kept_passwords(path, ["staff", "invoice"])
    assert again["staff"] == first["staff"]
    assert len({*first.values(), *again.values()}) == 3
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_passwords(path, []) == again | first


def test_given_passwords_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    path.write_text("saga=p=w\n\n")
    assert kept_passwords(path, ["saga"]) == {"saga": "p=w"}


def test_a_last_line_without_an_end_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    path.write_text("saga=pw")
    assert kept_passwords(path, ["saga", "staff"])["saga"] == "pw"
    assert kept_passwords(path, [])["saga"] == "pw"


@pytest.mark.parametrize("mode", [0o640, 0o660, 0o604, 0o602, 0o620])
def test_a_file_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "passwords"
    path.touch()
    path.chmod(mode)
    with pytest.raises(PermissionError, match=f"{path} can be read or changed by others .*`chmod 0600 {path}`"):
        kept_passwords(path, ["saga"])
    assert path.read_text() == ""


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner can read the passwords that are added, whatever its mode is; and a group that may read keys may not read these."""
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    for mode in (0o600, 0o440):
        path.chmod(mode)
        with pytest.raises(PermissionError, match=f"{path} belongs to another user"):
            kept_passwords(path, ["saga"])
    assert path.read_text() == ""


@pytest.mark.parametrize("is_there", [True, False])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, *, is_there: bool) -> None:
    """Whoever may turn the link could have passwords written, and made, somewhere else."""
    path, other = tmp_path / "passwords", tmp_path / "other"
    path.symlink_to(other)
    if is_there:
        other.touch(mode=0o600)
    with pytest.raises(PermissionError, match=f"{path} is a symbolic link"):
        kept_passwords(path, ["saga"])
    assert not is_there or other.read_text() == ""
    assert other.exists() == is_there


@pytest.mark.parametrize("line", ["saga", "=pw", "saga="])
def test_a_line_of_another_form_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    path.write_text(line)
    with pytest.raises(ValueError, match="each line must be name=password"):
        kept_passwords(path, ["saga"])


def test_the_hash_for_rabbitmq_has_its_salt_in_front() -> None:
    raw = base64.b64decode(rabbitmq_hash("test12"))
    assert raw[4:] == hashlib.sha256(raw[:4] + b"test12").digest()


def test_the_verifier_for_postgresql_is_that_of_rfc_7677(monkeypatch: pytest.MonkeyPatch) -> None:
    # The example of RFC 7677, section 3: its salt and password; the keys are those that its proof and signature verify.
    monkeypatch.setattr("secrets.token_bytes", lambda _: base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert postgresql_verifier("pencil") == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
