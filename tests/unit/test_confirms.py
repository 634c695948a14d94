"""How long a wave waits for its confirms: only as long as this process runs."""

from collections.abc import Iterator

from shared.messaging.publisher import BEAT_LATE_S, BEAT_S, CONFIRM_TIMEOUT_S, SILENT_AFTER_S, _Patience

STOPPED_S = 3_600.0


class Wave:
    """A wave that waits, and a clock that each beat moves on."""

    def __init__(self) -> None:
        self.patience = _Patience(missing=9)
        self.now = 50.0

    def beat(self, *, missing: int = 9, stopped_s: float = 0.0) -> bool:
        """One beat passes, `stopped_s` seconds late. Returns whether the wait is over."""
        self.now = self.patience.next_beat(self.now) + stopped_s
        return self.patience.is_over(self.now, missing)


def test_silence_ends_the_wait() -> None:
    wave = Wave()
    beats = int(SILENT_AFTER_S / BEAT_S)
    assert [wave.beat() for _ in range(beats)] == [False] * (beats - 1) + [True]


def test_confirms_prolong_it_up_to_a_limit() -> None:
    wave = Wave()
    beats = int(CONFIRM_TIMEOUT_S / BEAT_S)
    assert [wave.beat(missing=8 - beat) for beat in range(beats)] == [False] * (beats - 1) + [True]


def test_a_process_that_stood_still_reads_what_has_come_before_it_blames_the_broker() -> None:
    """At whichever beat it was stopped, there is another one, in which the loop reads the socket."""
    beats = int(SILENT_AFTER_S / BEAT_S)
    for stopped_at in range(beats):
        wave = Wave()
        for beat in range(beats):
            assert not wave.beat(stopped_s=STOPPED_S if beat == stopped_at else 0.0)
        assert wave.patience.waited_s(wave.now) <= SILENT_AFTER_S, "the hour does not count"
        assert wave.beat(), "and if nothing has come, it is silent"


def late_beats(wave: Wave) -> Iterator[bool]:
    while True:
        over = wave.beat(stopped_s=2 * BEAT_LATE_S)
        yield over
        if over:
            return


def test_a_process_that_is_always_late_does_not_wait_for_ever() -> None:
    assert len(list(late_beats(Wave()))) == 2 * SILENT_AFTER_S / BEAT_S
