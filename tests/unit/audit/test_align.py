"""Reading sorted streams of rows side by side, from stores that cannot be joined."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.align import StoredRow, align

Keys = list[str]


async def stream(keys: Keys) -> AsyncIterator[tuple[str, StoredRow]]:
    for key in keys:
        yield key, {"key": key}


@given(st.lists(st.lists(st.text(max_size=2)).map(sorted), min_size=1, max_size=4))
async def test_every_key_comes_once_in_order_with_all_its_rows(streams: list[Keys]) -> None:
    aligned = [(key, rows) async for key, rows in align(*map(stream, streams))]
    assert [key for key, _ in aligned] == sorted({key for keys in streams for key in keys})
    for key, groups in aligned:
        assert [[row["key"] for row in group] for group in groups] == [[key] * keys.count(key) for keys in streams]


async def test_a_stream_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="out of order"):
        _ = [key async for key, _ in align(stream(["b", "a"]), stream(["a"]))]
