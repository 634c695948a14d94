"""What is cached, and when the cache gives nothing."""

from shared.batch import state_cache
from shared.batch.state_cache import REST_BATCHES, StateCache


def kept(*keys: str) -> StateCache[str, int]:
    memory: StateCache[str, int] = StateCache()
    memory.put({key: number for number, key in enumerate(keys)})
    return memory


def test_a_cached_state_is_returned() -> None:
    assert kept("a", "b").get(["b", "c"], epoch=0) == {"b": 1}


def test_the_oldest_states_are_evicted_first() -> None:
    memory = kept(*(str(number) for number in range(state_cache.KEPT_MAX)))
    memory.put({"0": -1})  # young again
    memory.put({"new": -2})
    assert memory.get(["0", "1", "2", "new"], epoch=0) == {"0": -1, "2": 2, "new": -2}


def test_after_a_lost_connection_older_states_are_not_returned() -> None:
    memory = kept("a")
    assert memory.get(["a"], epoch=1) == {}
    memory.put({"a": 5})
    assert memory.get(["a"], epoch=1) == {"a": 5}


def test_after_a_wrong_guess_everything_is_read_for_a_while() -> None:
    memory = kept("a")
    resting = [memory.is_resting]
    memory.invalidate()
    memory.put({"a": 5})
    resting.append(memory.is_resting)
    assert [memory.get(["a"], epoch=0) for _ in range(REST_BATCHES)] == [{}] * REST_BATCHES
    resting.append(memory.is_resting)
    assert resting == [False, True, False]
    assert memory.get(["a"], epoch=0) == {"a": 5}


def test_a_held_key_is_known_even_while_the_cache_returns_nothing() -> None:
    memory = kept("a")
    memory.invalidate()
    memory.put({"b": 1})
    assert memory.get(["b"], epoch=0) == {}
    assert [memory.holds(key) for key in ("a", "b")] == [False, True]
