"""`python -m tests.faults` runs every fault; `... list` shows them. See the package's docstring."""

import argparse
import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT
from deploy.local.stack import KIND_VARIABLE
from shared.observability.logs import configure_logs
from tests.faults.families import all_trials, select
from tests.faults.run import LANES, Run, estimate_s, run_all
from tests.faults.trial import Trial

FOLDER = ROOT / ".remit" / "faults"
EXIT_INTERRUPTED = 130


def main() -> int:
    """The exit status: 0 only if every fault fired and nothing broke."""
    options = _options()
    console = Console(highlight=False)
    trials = select(all_trials(), only=options.only, short=options.short)
    if not trials:
        console.print(f"no trial is called {options.only}: `python -m tests.faults list` shows them all")
        return 2
    if options.what == "list":
        _list(trials, options.lanes, console)
        return 0
    configure_logs("faults", level="ERROR", format="console")
    os.environ[KIND_VARIABLE] = "private"
    console.print(_announcement(trials, options.lanes), soft_wrap=True)
    run = Run(trials, _folder())
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                run_all(run, lanes=options.lanes, say=lambda line: console.print(line, markup=False, soft_wrap=True))
            )
    except StackError as error:
        console.print(f"[red]{error}[/]")
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started is stopped")
        return EXIT_INTERRUPTED
    (run.folder / "run.json").write_bytes(
        orjson.dumps(run.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    )
    return 0 if run.ok else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults ARGS=...", description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=("run", "list"), default="run", help="run (default), or list what there is"
    )
    parser.add_argument("--only", metavar="GLOB", help="trials whose names match, such as 'crash/shell.*:exit'")
    parser.add_argument(
        "--short", action="store_true", help="a selection under five minutes: each family, each service"
    )
    parser.add_argument("--lanes", type=int, default=LANES, help=f"beds side by side (default {LANES})")
    return parser.parse_args()


def _announcement(trials: list[Trial], lanes: int) -> str:
    families = sorted({trial.family for trial in trials})
    minutes = estimate_s(trials, lanes) / 60
    return f"{len(trials)} trials of {len(families)} families ({', '.join(families)}): about {minutes:.0f} minutes"


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
    folder = FOLDER / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
