"""`make up`: runs everything until Ctrl-C, and prints what to type next."""

import shlex
import signal
import sys

from rich.text import Text

from deploy.cli.terminal import SafeConsole
from deploy.local.errors import StackError
from deploy.local.fleet import ROOT
from deploy.local.stack import SERVICES
from deploy.local.system import System, open_system
from shared.private_files import write_private

ENVIRONMENT_FILE = ROOT / ".remit" / "env"

console = SafeConsole()


def main() -> int:
    """Run until interrupted; returns the exit status."""
    # Not the handler of SIGINT: a shell lets its background processes ignore SIGINT, and then Python sets no handler for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with open_system(say=lambda line: console.print(Text(line, "dim"))) as system:
            for service in SERVICES:
                system.fleet.start(service)
            system.fleet.keep_running()
            _write_environment(system)
            _say_what_next(system)
            while True:
                signal.pause()
    except StackError as error:
        console.print(Text(str(error), "red"))
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing was left running")
        return 0
    finally:
        ENVIRONMENT_FILE.unlink(missing_ok=True)


def _write_environment(system: System) -> None:
    """Write the variables for other terminals, readable by this user only: they hold passwords."""
    ENVIRONMENT_FILE.parent.mkdir(exist_ok=True)
    ENVIRONMENT_FILE.unlink(missing_ok=True)
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in system.environment.items()]
    write_private(ENVIRONMENT_FILE, "".join(exports))


def _say_what_next(system: System) -> None:
    console.print(
        f"""
[bold]Remit runs.[/] In another terminal, in this folder:

  . .remit/env; PATH=$PWD/.venv/bin:$PATH
  remit invoice issue INV-1 --customer C-1 --amount-minor 12500 --currency EUR
  remit invoice pay INV-1 --amount-minor 12500 --currency EUR --token pm_card_visa
  remit invoice show INV-1
  remit invoice pay INV-1 --amount-minor 12500 --currency EUR --token pm_remit_never_answers
  remit payments in-doubt
  remit audit

Other tokens: deploy/sandbox/README.md. Logs: {system.folder}. Ctrl-C stops everything.""",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
