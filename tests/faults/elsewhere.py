"""`python -m tests.faults.elsewhere FOLDER SERVICE` runs the service of the build that lies in FOLDER, with the libraries of this one."""

import os
import runpy
import sys


def main() -> None:
    """Be the service of the other build: nothing of this tree is found any more."""
    folder, service = sys.argv[1:]
    for name in [name for name in sys.modules if name.partition(".")[0] in {"tests", "shared", "services", "deploy"}]:
        del sys.modules[name]
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [service]
    runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
