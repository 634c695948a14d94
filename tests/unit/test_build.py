"""Which build runs: read from the environment of an image, or from the files of a repository."""

from pathlib import Path

import pytest

from shared import build
from shared.build import UNKNOWN, libraries, this_build

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    this_build.cache_clear()


def test_an_image_says_which_build_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIT_VERSION", "9.9")
    monkeypatch.setenv("REMIT_REVISION", COMMIT)
    assert this_build().client_properties == {"remit_version": "9.9", "remit_revision": COMMIT[:12]}
    this_build.cache_clear()


def test_this_package_has_a_version_and_its_libraries_have() -> None:
    assert this_build().version != UNKNOWN
    assert {"aio-pika", "asyncpg", "pydantic", "sqlalchemy"} <= libraries().keys()


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "files",
    [
        {".git/HEAD": f"{COMMIT}\n"},
        {".git/HEAD": "ref: refs/heads/main\n", ".git/refs/heads/main": f"{COMMIT}\n"},
        {".git/HEAD": "ref: refs/heads/main\n", ".git/packed-refs": f"# packed\n{'f' * 40} refs/heads/other\n{COMMIT} refs/heads/main\n"},
        {".git": "gitdir: own\n", "own/HEAD": "ref: refs/heads/x\n", "own/commondir": "../all\n", "all/refs/heads/x": COMMIT},
    ],
    ids=["detached", "a branch", "a packed branch", "a worktree"],
)  # fmt: skip
def test_the_revision_is_read_from_the_repository(files: dict[str, str], tmp_path: Path) -> None:
    assert build._revision(make(tmp_path, files)) == COMMIT


@pytest.mark.parametrize(
    "files",
    [{}, {".git/HEAD": "ref: refs/heads/new\n"}, {".git/HEAD": "rubbish"}, {".git": "gitdir: nowhere"}],
    ids=["no repository", "no commit yet", "rubbish", "a worktree that was moved"],
)
def test_without_a_commit_the_revision_is_unknown(files: dict[str, str], tmp_path: Path) -> None:
    assert build._revision(make(tmp_path, files)) is None
