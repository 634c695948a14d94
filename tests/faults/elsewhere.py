"""`python -m tests.faults.elsewhere FOLDER SERVICE` runs a service of the build in FOLDER, with the libraries of this build."""

import os
import runpy
import sys


def main() -> None:
    """Run the service of the other build; no code of this repository is found any more."""
    folder, service = sys.argv[1:]
    for name in [name for name in sys.modules if name.partition(".")[0] in {"tests", "shared", "services", "deploy"}]:
        del sys.modules[name]
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [service]
    runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
