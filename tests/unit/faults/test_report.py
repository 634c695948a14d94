"""The result of a fault run: good only if every fault fired and every check held, or a planted fault broke its check."""

from pathlib import Path

import orjson
from rich.console import Console

from services.audit.checks import CHECKS
from tests.faults import report
from tests.faults.run import FaultRun, judge
from tests.faults.trial import Note, Trial, TrialResult

HOLDS = dict.fromkeys((check.name for check in CHECKS[:13]), "holds")


def result(name: str = "crash/a:saga:exit", **changes: object) -> TrialResult:
    made = TrialResult(name, name.partition("/")[0], "exit of saga: <nothing> is sent", fired=1, checks=dict(HOLDS))
    for key, value in changes.items():
        setattr(made, key, value)
    return made


async def _nothing(_bed: object, _note: Note) -> None:
    """This trial is never run."""


def run(folder: Path, *results: TrialResult) -> FaultRun:
    trials = [Trial(one.name, one.family, one.injects, _nothing, check=one.check) for one in results]
    return FaultRun(trials, folder, results=list(results))


def test_a_trial_is_good_only_if_it_fired_and_all_checks_hold() -> None:
    assert result().ok
    assert not result(fired=0).ok
    assert not result(checks={}).ok
    assert not result(checks=HOLDS | {"paid_when_captured": "broken"}).ok
    assert not result(surprises=["paid by token: declined"]).ok


def test_a_planted_fault_is_good_only_if_its_check_breaks() -> None:
    assert result(
        check="paid_when_captured", checks=HOLDS | {"paid_when_captured": "broken"}, surprises=["of course"]
    ).ok
    assert not result(check="paid_when_captured").ok
    assert not result(check="paid_when_captured", checks=HOLDS | {"answered_once": "broken"}).ok


def test_a_slow_recovery_is_a_failure(tmp_path: Path) -> None:
    assert result(recovered_s=4.9, limit_s=5.0).ok
    slow = result(recovered_s=5.1, limit_s=5.0)
    assert not slow.ok
    assert report.why(slow) == "recovered after 5.1 s, and 5 s are allowed"
    assert "5.1 of 5" in report.html(run(tmp_path, slow))


def test_the_audit_judges_a_run_without_any_database(tmp_path: Path) -> None:
    for fired, verdict in ((1, "holds"), (0, "broken")):
        judged = run(tmp_path, result(fired=fired))
        judged.seen.update(duplicates=1, redeliveries=1, in_doubt=1, conflicts=1)
        report.save(judged)
        assert judge(judged)["planned_faults_fired"]["verdict"] == verdict


def test_an_impossible_trial_is_skipped(tmp_path: Path) -> None:
    skipped = result("servers/database:full_wal", fired=0, checks={}, skipped="no small file system")
    whole = run(tmp_path, result(), skipped)
    assert whole.ok
    assert not skipped.ok
    assert not report.failed(skipped)
    report.save(whole)
    data = orjson.loads((tmp_path / "run.json").read_bytes())
    assert data["skipped"] == {"servers/database:full_wal": "no small file system"}
    assert [one["name"] for one in data["planned"]] == ["crash/a:saga:exit"]
    assert "no small file system" in report.html(whole)


def test_the_report_shows_how_often_the_audit_ran_again() -> None:
    said = report.read_again([result(readings=1), result(readings=2), result(readings=3)])
    assert "events_delivered, deliveries_accounted_for, resources_given_back" in said
    assert "after 2 of 3 trials; 1 needed a third" in said


def test_a_run_is_good_only_if_every_trial_was_run(tmp_path: Path) -> None:
    whole = run(tmp_path, result(), result("crash/b:saga:exit"))
    assert whole.ok
    whole.results.pop()
    assert not whole.ok


def test_run_json_has_planned_seen_and_planted_faults_for_the_audit(tmp_path: Path) -> None:
    one = run(
        tmp_path,
        result(),
        result(
            "planted/inbox-off",
            check="events_delivered",
            checks=HOLDS | {"events_delivered": "broken", "sagas_step_legally": "broken"},
        ),
    )
    one.seen.update(duplicates=3, in_doubt=1)
    report.save(one)
    data = orjson.loads((tmp_path / "run.json").read_bytes())
    assert data["planned"] == [{"name": "crash/a:saga:exit", "fired": 1}, {"name": "planted/inbox-off", "fired": 1}]
    assert data["seen"] == {"duplicates": 3, "redeliveries": 0, "in_doubt": 1, "conflicts": 0}
    assert data["planted"] == [
        {"name": "inbox-off", "expected": "events_delivered", "red": ["events_delivered", "sagas_step_legally"]}
    ]


def test_the_page_needs_no_other_file_and_escapes_its_texts(tmp_path: Path) -> None:
    good = result(drained_s=3.5, again_s=0.4)
    bad = result(
        "network/cut:saga:reset",
        family="network",
        checks=HOLDS | {"captured_once": "broken"},
        breaches=["captured_once: <p>: charged twice"],
    )
    page = report.html(run(tmp_path, good, bad))
    assert page.count("<svg viewBox") == 2
    assert "http" not in page.replace("https://", "http://").replace("http://www.w3.org", "")
    assert "&lt;nothing&gt;" in page
    assert "<nothing>" not in page
    assert "&lt;p&gt;: charged twice" in page
    assert "captured_once is broken" in page


def test_a_planted_fault_is_shown_as_found(tmp_path: Path) -> None:
    console = Console(record=True, width=160)
    report.show(
        run(
            tmp_path,
            result("planted/inbox-off", check="events_delivered", checks=HOLDS | {"events_delivered": "broken"}),
        ),
        console,
    )
    assert "1 found" in console.export_text()


def test_the_table_names_the_failed_trials(tmp_path: Path) -> None:
    console = Console(record=True, width=160)
    report.show(run(tmp_path, result(), result("crash/b:saga:exit", fired=0)), console)
    shown = console.export_text()
    assert "crash/b:saga:exit: it never fired" in shown
    assert "13" in shown
