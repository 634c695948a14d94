"""What `remit` says of the results of an act on several things."""

from uuid import UUID

import pytest
import typer

from deploy.cli.staff_pages import report
from services.staff.actions.results import ActionRefusal, ActionResult


def test_what_waits_for_a_second_person_is_not_counted_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = (UUID(int=number) for number in (1, 2, 3))
    done, proposed = ActionResult(one, "discarded", entry=one), ActionResult(two, "proposed", entry=two, proposal=two)
    report([done, proposed], json=False, done="discarded")
    assert "1 discarded, 1 proposed to a second person, 0 refused." in "".join(capsys.readouterr())
    with pytest.raises(typer.Exit):
        report([done, ActionResult(three, "unknown", ActionRefusal.UNKNOWN)], json=False, done="discarded")
    assert "1 discarded, 1 refused." in "".join(capsys.readouterr())
