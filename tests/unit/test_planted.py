"""The builds without one guarantee: each has its trial and a control, and finds in the code what it removes."""

import subprocess
import sys

from tests.faults import planted
from tests.faults.builds import BUILDS

TAKE_ALL_OUT = "from tests.faults.builds import BUILDS\nfor take_out in BUILDS.values(): take_out()"


def test_every_build_is_tried_and_has_a_control() -> None:
    trials = {trial.name: trial.check for trial in planted.trials()}
    assert {one.build for one in planted.PLANTED} == set(BUILDS)
    for one in planted.PLANTED:
        assert trials[f"planted/{one.build}"] == one.check
        assert trials[f"planted/{one.build}:control"] is None


def test_every_build_finds_what_it_removes() -> None:
    """In a process of its own, so that nothing that is removed there is missing here."""
    done = subprocess.run((sys.executable, "-c", TAKE_ALL_OUT), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
