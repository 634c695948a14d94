"""Pages as they stand after somebody acted: a proposal, a contradiction, a decision to be checked, an edit, runs on their way."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from services.staff import people_store, store
from services.staff.actions import runs
from services.staff.actions.second_thoughts import EDIT_AND_REPLAY
from services.staff.dead_letters import DeadLetter
from services.staff.domain import CaseStatus, Settled, evolve
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Role, Via
from services.staff.runs import RunAct, RunState
from shared.records import replace
from tests.browser.sending import Sending
from tests.browser.site import EVERYBODY, Site
from tests.support.desk_browser import NOW, DeskBrowser, SeenPage
from tests.support.kept_cases import LIMIT, keep_case, kept_case_of
from tests.support.kept_letters import event, keep, payment

BEN = Actor("ben", Via.DESK, frozenset({Role.REPLAYER}))


async def open_states(site: Site, words: str) -> list[str]:
    """The addresses of these pages, as ann sees them. `words` stand wherever people write."""
    words = "".join(one for one in words if one >= " ")  # people cannot send control characters
    ann, ben = [await site.desk.browser(name, *EVERYBODY) for name in ("ann", "ben")]
    checked = await _check(ann, await case_after(site), words)
    return [
        checked.address,
        await _proposed(site, ben, words),
        *[f"/cases/{await case_after(site, *facts)}" for facts in (CONTRADICTED, CAPTURED)],
        *await _letter_to_edit(site, words),
        *[f"/replays/{no}" for no in await _runs(site, words)],
    ]


CONTRADICTED = (Settled(5, CaseStatus.NOT_CHARGED, decided_by="ben"), Settled(6, CaseStatus.CAPTURED))
CAPTURED = (Settled(5, CaseStatus.CAPTURED, decided_by="ben"),)
"""It can be reopened, and its money given back."""


async def case_after(site: Site, *facts: Settled) -> UUID:
    """A case above the limit, after these facts."""
    database = site.desk.desk.database
    payment_id = await keep_case(database, LIMIT + 1, at=NOW - timedelta(hours=4))
    case = (await kept_case_of(database, payment_id)).case
    for fact in facts:
        case = evolve(case, fact)
    async with database.transaction() as tx:
        await store.save_cases(tx, [(case, "C-1")], NOW, locked={payment_id})
    return payment_id


async def _check(browser: DeskBrowser, payment_id: UUID, words: str) -> SeenPage:
    decided = {"resolution": "not_charged", "evidence": words, "reason": words}
    page = await browser.submit(await browser.open(f"/cases/{payment_id}"), f"/cases/{payment_id}/check", **decided)
    assert page.status == 200, page.text
    return page


async def _proposed(site: Site, ben: DeskBrowser, words: str) -> str:
    payment_id = await case_after(site)
    page = await _check(ben, payment_id, words)
    (form,) = (form for form in page.forms if "/decide" in form.action)
    sent = await ben.submit(page, form.action)
    assert sent.status == 200, sent.text
    return f"/cases/{payment_id}"


async def _letter_to_edit(site: Site, words: str) -> list[str]:
    """The pages of a message that charges a card, and has a field that no contract knows."""
    letter = payment("INV-1", 12_500, site.desk.clock)
    assert letter.body is not None
    body = letter.body.replace(b'"data":{', b'"data":{"mandate":"SEPA-2211",')
    (id_,) = await _kept(site, replace(letter, body=body, body_bytes=len(body), error_text=words))
    async with site.desk.desk.database.transaction() as tx:
        await people_store.save_setting(tx, EDIT_AND_REPLAY, value=True, who="ann", now=NOW)
    return [f"/dead-letters/{id_}", f"/dead-letters/{id_}/edit"]


async def _runs(site: Site, words: str) -> list[int]:
    """A preview with something that is too old to charge, a run that tries its first message, and one that waits to go on."""
    old = replace(payment("INV-2", 400, site.desk.clock), asked_at=NOW - timedelta(days=2))
    sending = Sending(site)
    preview = await _previewed(site, words, payment("INV-3", 900, site.desk.clock), old)
    running = await _begun(site, words)
    await sending.take_turn(running)
    waiting = await _begun(site, words)
    assert await sending.go_on(waiting) is RunState.WAITING
    return [preview, running, waiting]


async def _begun(site: Site, words: str) -> int:
    no = await _previewed(site, words, event(1), event(2))
    begun = await runs.act(
        site.desk.desk.database, no, RunAct.TRY, who=BEN, reason=words, sure=True, clock=site.desk.clock
    )
    assert begun.ok, begun.text
    return no


async def _previewed(site: Site, title: str, *letters: DeadLetter) -> int:
    wanted = LetterFilter(status=None, ids=tuple(await _kept(site, *letters)))
    previewed = await runs.preview(site.desk.desk.database, wanted, who=BEN, title=title, clock=site.desk.clock)
    assert previewed.no is not None
    return previewed.no


async def _kept(site: Site, *letters: DeadLetter) -> Sequence[UUID]:
    return await keep(site.desk.desk.database, *letters, clock=site.desk.clock)
