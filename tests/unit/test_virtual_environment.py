"""The virtual environment is made aside and appears when it is complete: after Ctrl-C, beside another `make`, over an older one."""

import fcntl
import subprocess
import threading
from pathlib import Path

import pytest

from deploy.local import virtual_environment as made

LOCK, LINK, STAMP = Path("lock.txt"), Path(".venv"), ".ready-1"
HOME = made.HOME / "venv"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(made, "_build", build)
    return tmp_path


def build(folder: Path, _: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "python").write_text(folder.name)


def test_it_appears_when_it_is_complete_and_replaces_the_one_before() -> None:
    for stamp in (".ready-1", ".ready-2", ".ready-3"):
        assert made.main(LOCK, LINK, stamp) == 0
        assert (LINK / stamp).exists()
        assert (LINK / "python").read_text() == stamp[1:]
    assert {path.name for path in HOME.iterdir() if path.is_dir()} == {"ready-2", "ready-3"}


def test_a_folder_that_an_earlier_makefile_made_gives_way() -> None:
    (LINK / "bin").mkdir(parents=True)
    assert made.main(LOCK, LINK, STAMP) == 0
    assert LINK.is_symlink()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), made.INTERRUPTED),
        (subprocess.CalledProcessError(1, ["python", "-m", "pip", "install"]), 1),
    ],
    ids=["Ctrl-C", "no network"],
)
def test_what_is_interrupted_leaves_the_one_before(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.main(LOCK, LINK, ".ready-1") == 0

    def interrupted(folder: Path, _: Path) -> None:
        folder.mkdir()
        raise error

    monkeypatch.setattr(made, "_build", interrupted)
    assert made.main(LOCK, LINK, ".ready-2") == status
    assert (LINK / ".ready-1").exists()
    assert not (HOME / "ready-2").exists()
    assert ".venv" in capsys.readouterr().out
    monkeypatch.setattr(made, "_build", build)
    assert made.main(LOCK, LINK, ".ready-2") == 0


def test_of_two_at_once_the_second_waits_and_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    HOME.mkdir(parents=True)
    statuses: list[int] = []
    with (HOME / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: statuses.append(made.main(LOCK, LINK, STAMP)))
        second.start()
        build(HOME / "ready-1", LOCK)
        (HOME / "ready-1" / STAMP).touch()
        made._turn(LINK, HOME / "ready-1")
        monkeypatch.setattr(made, "_build", lambda *_: pytest.fail("it was made twice"))
    second.join(10)
    assert statuses == [0]


def test_the_packages_of_a_lock_are_counted(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("# a comment\na==1 \\\n    --hash=sha256:0\n    # via b==2\nb==2 ; python_version > '3'\n")
    assert made._number_of_packages(lock) == 2


def test_progress_is_shown_and_a_failure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    script = "print('Collecting a\\n' * 26 + 'Installing collected packages: a\\nERROR: no network')"
    made._show_progress(("python3", "-c", script), 26)
    assert capsys.readouterr().out == "\r  25 of at most 26 packages\n  installing them\nERROR: no network\n"
    with pytest.raises(subprocess.CalledProcessError):
        made._show_progress(("python3", "-c", "raise SystemExit(3)"), 0)


def test_environments_of_two_pythons_do_not_remove_each_other() -> None:
    for link in (LINK, Path(".venv-newest"), LINK):
        for stamp in (".ready-1", ".ready-2", ".ready-3"):
            assert made.main(LOCK, link, stamp) == 0
    assert (LINK / ".ready-3").exists()
    assert (Path(".venv-newest") / ".ready-3").exists()
