"""`python -m tests.faults` runs every fault; `... list` shows them. See the package's docstring."""

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT
from deploy.local.stack import KIND_VARIABLE
from shared.observability.logs import configure_logs
from tests.faults import chaos, report
from tests.faults.families import all_trials, select
from tests.faults.run import LANES, FaultRun, Say, estimate_s, judge, run_all
from tests.faults.trial import Trial

FOLDER = ROOT / ".remit" / "faults"
EXIT_INTERRUPTED = 130
MINUTES = 30.0
WIDE = 120
"""Width, in columns, of a report that is written to a file."""


def main() -> int:
    """Run the trials; the exit status is 0 only if every fault fired and nothing broke."""
    options = _options()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    trials = select(all_trials(), only=options.only, short=options.short, part=options.part)
    if not trials:
        console.print(f"no trial is called {options.only}: `python -m tests.faults list` shows them all")
        return 2
    if options.what == "list":
        _list(trials, options.lanes, console)
        return 0
    configure_logs(
        "faults", level="CRITICAL", format="console"
    )  # our sender's AMQP client logs every server that a trial takes down
    os.environ[KIND_VARIABLE] = "private"

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    # SIGTERM, too, must clean up. Not SIGINT's handler: a shell lets its background processes ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    run, work = _prepared(options, trials, say)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except StackError as error:
        console.print(f"[red]{error}[/]")
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started is stopped")
        return EXIT_INTERRUPTED
    finally:
        report.save(run)
    run.run_checks = judge(run)
    paths = report.save(run)
    report.show(run, console)
    console.print(f"Kept in {' and '.join(str(path.relative_to(ROOT)) for path in paths)}", soft_wrap=True)
    return 0 if run.ok else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults ARGS=...", description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=("run", "list"), default="run", help="run (default), or list the trials"
    )
    parser.add_argument("--only", metavar="GLOB", help="trials whose names match, such as 'crash/shell.*:exit,fleet/*'")
    parser.add_argument(
        "--short", action="store_true", help="a selection of every family and service, under five minutes"
    )
    parser.add_argument("--part", type=_part, metavar="I/N", help="each Nth trial, from the Ith on")
    parser.add_argument(
        "--minutes", type=float, help=f"random mode: how long, under continuous load (default {MINUTES:g})"
    )
    parser.add_argument("--seed", type=int, help="random mode: the schedule of this seed")
    parser.add_argument("--lanes", type=int, default=LANES, help=f"testbeds side by side (default {LANES})")
    return parser.parse_args()


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text} is no part, such as 3/12")
    return int(number), int(parts)


def _prepared(
    options: argparse.Namespace, trials: list[Trial], say: Say
) -> tuple[FaultRun, Coroutine[None, None, None]]:
    """The run, and the coroutine that performs it; prints how long it will take."""
    if options.minutes is None and options.seed is None:
        say(_announcement(trials, options.lanes))
        run = FaultRun(trials, _folder())
        return run, run_all(run, lanes=options.lanes, say=say)
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    minutes = options.minutes or MINUTES
    planned = chaos.schedule(seed, minutes, trials)
    say(f"seed {seed}: {len(planned)} faults in {minutes:g} minutes, then everything drains")
    run = FaultRun([replace(one.trial, name=one.name) for one in planned], _folder(), seed=seed)
    return run, chaos.run_random(run, planned, minutes=minutes, say=say)


def _announcement(trials: list[Trial], lanes: int) -> str:
    families = sorted({trial.family for trial in trials})
    minutes = estimate_s(trials, lanes) / 60
    return (
        f"{len(trials)} trials of {len(families)} families ({', '.join(families)}): "
        f"about {minutes:.0f} minutes on an idle machine of two cores"
    )


def _list(trials: list[Trial], lanes: int, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("trial", no_wrap=True)
    table.add_column("s", justify="right")
    table.add_column("what it injects")
    for trial in trials:
        table.add_row(trial.name, f"{trial.estimate_s:.0f}", trial.injects + (" (alone)" if trial.alone else ""))
    console.print(table)
    console.print(_announcement(trials, lanes))


def _folder() -> Path:
    folder = FOLDER / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}-{os.getpid()}"
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
