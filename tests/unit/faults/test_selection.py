"""The trials: every crash point with every action, a short selection, and a schedule that a seed repeats."""

import pytest

from shared.crash_points import ACTIONS, POINTS, REMIT
from tests.faults import chaos, crash
from tests.faults.families import all_trials, select
from tests.faults.run import LANES, estimate_s
from tests.faults.trial import Note, Trial

SERVICES = {"invoice", "payment_gateway", "saga", "staff"}


def test_every_action_is_tried_at_every_point_and_every_service_that_passes_it_ends_there() -> None:
    names = {trial.name for trial in crash.trials()}
    for point in POINTS:
        if not point.passed_by:
            continue  # the desk's: its own tests make it fail there
        for action in ACTIONS:
            assert any(name.startswith(f"crash/{point.name}:") and name.endswith(f":{action}") for name in names)
        if point.name not in crash.ONLY_THERE:
            assert {f"crash/{point.name}:{service}:exit" for service in point.passed_by} <= names


def test_names_are_unique_and_every_trial_names_what_it_touches() -> None:
    trials = all_trials()
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        assert trial.name.startswith(f"{trial.family}/")
        assert trial.touches or trial.alone, trial.name


def test_the_short_selection_has_every_service_and_every_family() -> None:
    everything = all_trials()
    assert {f"crash/{name}" for name in crash.SHORT} <= {trial.name for trial in everything}
    short = select(everything, short=True)
    assert estimate_s(short, LANES) < 300
    assert {trial.family for trial in short} >= {"crash"}
    assert {service for trial in short for service in trial.touches} >= SERVICES
    assert {trial.name.rpartition(":")[2] for trial in short if trial.family == "crash"} == set(ACTIONS)
    assert any(f":{REMIT}:" in trial.name for trial in short)


def test_a_pattern_selects() -> None:
    chosen = select(all_trials(), only="crash/shell.before_ack:*:exit")
    assert {trial.name for trial in chosen} == {f"crash/shell.before_ack:{service}:exit" for service in SERVICES}


def test_the_parts_are_all_trials_each_once_and_no_part_takes_long() -> None:
    everything = all_trials()
    parts = [select(everything, part=(number, 24)) for number in range(1, 25)]
    assert sorted(trial.name for part in parts for trial in part) == sorted(trial.name for trial in everything)
    assert max(estimate_s(part, LANES) for part in parts) < 240


async def _nothing(_bed: object, _note: Note) -> None:
    """This trial is never run."""


def _trial(name: str, family: str, *, random: bool = True) -> Trial:
    return Trial(f"{family}/{name}", family, "", _nothing, random=random)


TRIALS = [*(_trial(f"a{n}", "many") for n in range(50)), _trial("b", "few"), _trial("c", "few", random=False)]


def test_a_seed_repeats_its_schedule_whatever_the_order_of_trials() -> None:
    first = chaos.schedule(7, 5, TRIALS)
    assert first == chaos.schedule(7, 5, list(reversed(TRIALS)))
    assert first != chaos.schedule(8, 5, TRIALS)


def test_a_schedule_fills_the_time_with_faults_of_every_family_that_are_fit_for_it() -> None:
    planned = chaos.schedule(1, 5, TRIALS)
    assert [one.at_s for one in planned] == sorted(one.at_s for one in planned)
    assert 300 - chaos.PAUSE_MOST_S <= planned[-1].at_s < 300
    assert {one.trial.family for one in planned} == {"many", "few"}
    assert all(one.trial.random for one in planned)
    assert len({one.name for one in planned}) == len(planned)


@pytest.mark.parametrize("lanes", [1, 4])
def test_the_estimate_divides_shared_trials_among_the_lanes(lanes: int) -> None:
    trials = [_trial(str(n), "x") for n in range(8)]
    assert estimate_s(trials, lanes) == pytest.approx(estimate_s([], 1) + 8 * 15 / lanes)
