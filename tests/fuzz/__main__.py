"""`python -m tests.fuzz TARGET --seconds 60`: sends mutated bytes to one border of Remit until a promise breaks, or the time is over.

With atheris (the dependency group `fuzz`) the fuzzer sees which branches an input reached, and is guided by them. Without it, it changes
the seeds at random. An input that breaks a promise is written to a file, so that it can be added to the corpus.
"""

import argparse
import contextlib
import importlib
import os
import random
import sys
import tempfile
import time
import traceback
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

NAMES = ("border", "codec", "frame", "gateway", "letter")
CODE_UNDER_TEST = ["shared", "services", "pamqp", "stripe"]
EDITS_MAX = 8
PIECE_MAX = 64
INPUT_BYTES_MAX = 70_000
"""A little more than the largest body that Remit accepts."""


def main() -> int:
    """Run the fuzzer. 0: nothing broke. Any other status: the breaking input is in the file that the output names."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="the same seed tries the same inputs")
    parser.add_argument("--input", type=Path, help="try only this file, for example one that was found")
    asked = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
        instrumented = atheris.instrument_imports(include=CODE_UNDER_TEST)
    except ImportError:
        atheris, instrumented = None, contextlib.nullcontext()
    with instrumented:  # atheris instruments modules while they are imported
        target: Target = importlib.import_module("tests.fuzz.targets").TARGETS[asked.target]
    if asked.input is not None:
        target.check(asked.input.read_bytes())
        return 0
    if atheris is not None:
        _guided(atheris, target, asked.seconds, asked.seed)
    return _blindly(target, asked.seconds, asked.seed)


def _guided(atheris: Any, target: "Target", seconds: int, seed: int) -> None:
    """Does not return: libFuzzer ends the process, with an exit code of its own if something broke."""
    folder = Path(tempfile.mkdtemp(prefix="remit-fuzz-"))
    for start in target.seeds:
        (folder / sha256(start).hexdigest()).write_bytes(start)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={tempfile.gettempdir()}{os.sep}remit-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], target.check)
    atheris.Fuzz()


def _blindly(target: "Target", seconds: int, seed: int) -> int:
    dice = random.Random(seed)
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until:
        raw = target.seeds[tried] if tried < len(target.seeds) else _changed(dice, target.seeds)
        tried += 1
        try:
            target.check(raw)
        except Exception:  # noqa: BLE001 - whatever it is, it was found
            found = Path(tempfile.gettempdir()) / f"remit-crash-{sha256(raw).hexdigest()}"
            found.write_bytes(raw)
            traceback.print_exc()
            print(f"input {tried} broke it: {found}", file=sys.stderr)  # noqa: T201 - a program for the terminal
            return 1
    print(f"{tried} inputs, nothing broke")  # noqa: T201 - as above
    return 0


def _changed(dice: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """One of the seeds with a few pieces removed, inserted, changed or doubled."""
    raw = bytearray(dice.choice(seeds))
    for _ in range(dice.randint(1, EDITS_MAX)):
        at, other = dice.randint(0, len(raw)), dice.choice(seeds)
        start, length = dice.randint(0, len(other)), dice.randint(0, PIECE_MAX)
        match dice.randrange(4):
            case 0:
                del raw[at : at + length]
            case 1:
                raw[at:at] = other[start : start + length]
            case 2:
                raw[at : at + 1] = dice.randbytes(1)
            case _:
                raw[at:at] = raw[at : at + length] * dice.randint(1, 3)
    return bytes(raw)


if __name__ == "__main__":
    sys.exit(main())
