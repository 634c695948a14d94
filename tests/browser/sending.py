"""The staff service beside the desk, one turn at a time: it sends runs, and services tell what became of what was sent."""

from datetime import timedelta
from uuid import UUID

from services.staff import store
from services.staff.actions import runs
from services.staff.dead_letters import DeadLetterStatus, arrive
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Via
from services.staff.run_sender import RunSender
from services.staff.runs import RunAct, RunState
from shared.records import replace
from tests.browser.site import Site
from tests.support.databases import execute

TURNS_MAX = 20


class _Nowhere:
    """Stands in for the broker: it publishes nothing, so what was sent stays in the outbox."""

    async def publish(self, batches: object) -> None: ...


class Sending:
    """What sends the runs of a site, when the test says so."""

    def __init__(self, site: Site) -> None:
        self._database, self._clock, self._url = site.desk.desk.database, site.desk.clock, site.database_url
        self._sender = RunSender(self._database, _Nowhere(), self._clock, old_after=timedelta(days=1))  # type: ignore[arg-type]

    async def take_turn(self, no: int) -> RunState | None:
        """Send what is to be sent now, a second after the turn before."""
        await execute(self._url, "UPDATE replay_runs SET paced_at = now() - interval '1 second'")
        return await self._sender.take_turn(no)

    async def go_on(self, no: int, *, but: UUID | None = None) -> RunState | None:
        """Send until the run waits or ends. All that was sent is handled, but for this one, which fails again in another way."""
        for _ in range(TURNS_MAX):
            if (state := await self.take_turn(no)) is not RunState.RUNNING:
                return state
            if but is not None:
                await self._fail(but)
            await execute(
                self._url,
                """UPDATE dead_letters SET outcome = 'handled', outcome_at = settled_at
                   WHERE replay_entry IS NOT NULL AND outcome IS NULL AND status = 'replayed'""",
            )
        raise AssertionError(f"R-{no} still runs")

    async def halt_at(self, letter_id: UUID, title: str) -> None:
        """Preview a run of this message, begin it, and have the message fail again."""
        ann = Actor("ann.replayer", Via.DESK)
        wanted = LetterFilter(status=None, ids=(letter_id,))
        previewed = await runs.preview(self._database, wanted, who=ann, title=title, clock=self._clock)
        assert previewed.no is not None
        begun = await runs.act(
            self._database, previewed.no, RunAct.TRY, who=ann, reason="Repaired.", sure=True, clock=self._clock
        )
        assert begun.ok, begun.text
        assert await self.go_on(previewed.no, but=letter_id) is RunState.HALTED

    async def _fail(self, letter_id: UUID) -> None:
        async with self._database.transaction() as tx:
            records = await store.lock_letters(tx, {letter_id})
            record = records[letter_id]
            if record.status is not DeadLetterStatus.REPLAYED:
                return
            letter = replace(record.letter, generation=record.replays, error_type="ValueError", error_text="no mandate")
            await store.save_letters(tx, [arrive(record, letter, self._clock())], locked=records)
