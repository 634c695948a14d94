"""The audit must not share the code whose results it checks."""

import subprocess
import sys

from tests.support.environment import ROOT

SCRIPT = """
import importlib, pkgutil, sys
import services.audit
for module in pkgutil.iter_modules(services.audit.__path__):
    importlib.import_module(f"services.audit.{module.name}")
checked = ("services.invoice", "services.payment_gateway", "services.saga", "services.staff")
forbidden = (*checked, "shared.batch", "shared.persistence", "shared.ids", "shared.messaging.codec")
found = [name for name in sys.modules if any(name == module or name.startswith(f"{module}.") for module in forbidden)]
sys.exit(", ".join(sorted(found)) or 0)
"""


def test_the_audit_imports_nothing_of_what_it_checks() -> None:
    """From `shared` it takes the link to the broker and the names of the queues: no store, no fold, no derived id, no codec."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
