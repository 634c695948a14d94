"""Ladders of seconds are read in one way. A mistake gives one sentence that shows what would be right."""

import pytest

from shared.settings import ConfigurationError, EnvironmentVariables


def read(value: str, *, least: float = 0.0, ascending: bool = False) -> tuple[float, ...]:
    environment = EnvironmentVariables({"WAITS_S": value})
    return environment.ladder_s("WAITS_S", (1.0, 2.5), steps_max=3, least=least, most=60, ascending=ascending)


@pytest.mark.parametrize(
    ("value", "ladder_s"), [("", (1.0, 2.5)), (" 5 ", (5.0,)), ("60, 0.1,60", (60.0, 0.1, 60.0)), ("1e-9", (1e-9,))]
)
def test_a_ladder_is_numbers_of_seconds_or_the_default(value: str, ladder_s: tuple[float, ...]) -> None:
    assert read(value) == ladder_s


@pytest.mark.parametrize("value", ["soon", "1,", "0", "-1", "nan", "inf", "60.1", "1,1,1,1"])
def test_a_wrong_ladder_is_refused_with_an_example(value: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(value)
    assert str(refused.value) == (
        "WAITS_S must be 1 to 3 numbers of seconds, above 0 to 60, separated by commas, such as 1,2.5."
    )


@pytest.mark.parametrize("value", ["0.4,1", "2,1"])
def test_a_ladder_may_have_a_shortest_step_and_an_order(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"1 to 3 ascending numbers of seconds, from 0\.5 to 60,"):
        read(value, least=0.5, ascending=True)


def test_steps_of_a_ladder_in_order_may_be_equal() -> None:
    assert read("0.5,0.5,60", least=0.5, ascending=True) == (0.5, 0.5, 60.0)
