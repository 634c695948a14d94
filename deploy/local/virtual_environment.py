"""Makes the virtual environment: python deploy/local/virtual_environment.py LOCK VENV STAMP. Needs nothing but Python.

It is built aside, under `.remit/venvs`, and `VENV` is a link that is turned to it when it is complete. So an interruption at any moment
leaves the old one as it was, or none; of two at once the second one waits; and a folder that was moved, in which the programs of its
environment would not start, gets a new one, since STAMP differs by the folder.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(".remit/venvs")
"""Has a folder for each link: there may be several, of several Pythons."""
STEPS_SHOWN = 25
"""Packages between two lines of progress, where no terminal shows it in one line."""
INTERRUPTED = 130


def main(lock: Path, link: Path, stamp: str) -> int:
    """Make it unless it is there; returns the exit status."""
    home = HOME / link.name.lstrip(".")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another `make` is setting {link} up: waiting for it", flush=True)  # noqa: T201 - it is a program
            fcntl.flock(held, fcntl.LOCK_EX)
        if (link / stamp).exists():
            return 0  # the other one has made it
        built = home / stamp.removeprefix(".")
        try:
            _build(built, lock)
            (built / stamp).touch()
            _turn(link, built)
        except KeyboardInterrupt:
            shutil.rmtree(built, ignore_errors=True)
            print(f"\nInterrupted: {link} is as it was. `make` begins it anew.", flush=True)  # noqa: T201
            return INTERRUPTED
        except subprocess.CalledProcessError as error:
            shutil.rmtree(built, ignore_errors=True)
            print(f"{link} could not be made: {' '.join(error.cmd[1:4])} failed (its lines are above).", flush=True)  # noqa: T201
            return 1
    return 0


def _build(folder: Path, lock: Path) -> None:
    """Build it in an empty folder: what an earlier try has left there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run((sys.executable, "-m", "venv", folder), check=True)
    pip = (str((folder / "bin" / "python").absolute()), "-m", "pip", "install", "--disable-pip-version-check")
    _show_progress((*pip, "--progress-bar", "off", "--require-hashes", "-r", str(lock)), _number_of_packages(lock))
    subprocess.run((*pip, "--quiet", "--quiet", "--no-deps", "--no-build-isolation", "--editable", "."), check=True)


def _number_of_packages(lock: Path) -> int:
    return sum("==" in line and not line[0].isspace() for line in lock.read_text(encoding="utf-8").splitlines() if line)


def _show_progress(command: tuple[str, ...], packages: int) -> None:
    """Run pip, and show how many packages it has got. Of what it says itself only errors are shown. Raises CalledProcessError."""
    terminal, got = sys.stdout.isatty(), 0
    at_once = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=at_once, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("Collecting "):
                got += 1
                if terminal or got % STEPS_SHOWN == 0:
                    print(f"\r  {got} of at most {packages} packages", end="" if terminal else "\n", flush=True)  # noqa: T201
            elif line.startswith("Installing "):
                print(f"{chr(10) if terminal else ''}  installing them", flush=True)  # noqa: T201
            elif line.startswith(("ERROR", "WARNING: Retrying")):
                print(line, end="", flush=True)  # noqa: T201
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _turn(link: Path, built: Path) -> None:
    """Let the link lead to the new one, at once. The one before stays for programs that still run from it; older ones are removed."""
    home, before = built.parent, link.resolve() if link.is_symlink() else None
    if link.is_dir() and not link.is_symlink():  # made by an earlier build of this Makefile
        link.rename(home / f"former-{os.getpid()}")
    new = home / "link"
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(built, link.absolute().parent))
    new.replace(link)
    for folder in home.iterdir():
        if folder.is_dir() and folder.resolve() not in {built.resolve(), before}:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
