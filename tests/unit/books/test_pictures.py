"""The pictures of the guide for staff: each is shown there, is small, and says in words what it shows."""

import re

from tests.support.environment import ROOT

GUIDE = ROOT / "services" / "staff" / "README.md"
BYTES_MAX = 80_000


def test_the_guide_shows_every_picture_and_each_is_small() -> None:
    shown = dict(re.findall(r"!\[([^\]]+)\]\(pictures/([\w.-]+)\)", GUIDE.read_text(encoding="utf-8")))
    there = sorted(path.name for path in (GUIDE.parent / "pictures").iterdir())
    assert sorted(shown.values()) == there
    assert len(there) == 4
    large = [path.name for path in (GUIDE.parent / "pictures").iterdir() if path.stat().st_size > BYTES_MAX]
    assert not large
