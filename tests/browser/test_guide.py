"""The pictures of the guide for staff, taken anew: `.remit/pictures/guide-*.png`. Look at them, then put them in place of the old ones."""

from datetime import timedelta

from services.staff import journal_store
from services.staff.journal_check import PAUSE_S, JournalCheck
from services.staff.people import Role
from tests.browser.filled import Filled, fill
from tests.browser.site import IN_ONE_LOOP, PICTURES, Site

pytestmark = IN_ONE_LOOP


async def test_the_pictures_of_the_guide_can_be_taken(site: Site) -> None:
    filled = await fill(site.desk.desk.database, with_hostile=False)
    await _sealed(site)
    page = await site.window("ann.resolver", Role.RESOLVER, Role.REPLAYER, size=(1120, 760))
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, address in _addresses(filled).items():
        answer = await page.goto(address)
        assert answer is not None
        assert answer.ok, name
        await page.screenshot(path=PICTURES / f"guide-{name}.png")


def _addresses(filled: Filled) -> dict[str, str]:
    return {
        "overview": "/",
        "case": f"/cases/{filled.case}",
        "story": f"/invoices/{filled.invoice}",
        "log": "/activity",
    }


async def _sealed(site: Site) -> None:
    """Seal the log, and look through it, as the service does within the hour."""
    database, clock = site.desk.desk.database, site.desk.clock
    async with database.transaction() as tx:
        head = await journal_store.head_now(tx, clock() - timedelta(minutes=30))
        assert head is not None
        await journal_store.add_seal(tx, head)
    check = JournalCheck(database, clock)
    while await check.run_once() == PAUSE_S:
        pass
