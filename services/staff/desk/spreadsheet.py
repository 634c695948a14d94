"""Rows as CSV, for spreadsheets: no cell is taken for a formula, and nothing hides in one."""

import csv
import io
from collections.abc import Sequence

import orjson

from shared.observability.visible import visible


def csv_lines(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines of CSV (RFC 4180), each cell in quotes."""
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return file.getvalue()


def cell(value: object) -> str:
    """A value as a cell that no spreadsheet takes for a formula, and in which nothing hides."""
    if value is None:
        return ""
    text = visible(value if isinstance(value, str) else orjson.dumps(value).decode())
    return f"'{text}" if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "|", "%") else text
