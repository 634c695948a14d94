"""A known vulnerability fails the check; what no source answers about does not, is not counted as checked, and is said."""

import json
from pathlib import Path

import pytest

from deploy.requirements import vulnerabilities

REPORT = {
    "dependencies": [
        {"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]},
        {"name": "b", "version": "2", "vulns": []},
    ]
}
UNKNOWN = {"dependencies": [{"name": "c", "skip_reason": "not found"}]}
CLEAN = {"dependencies": [{"name": "b", "version": "2", "vulns": []}, *UNKNOWN["dependencies"]]}
NONE = "Skipped: no advisory source answers here. Run it where one does.\n"


@pytest.mark.parametrize(
    ("pypi", "osv", "status", "said"),
    [
        (REPORT, None, 1, "a 1: CVE-1\n2 of 2 packages checked, 1 known vulnerabilities (asked: pypi).\n"),
        (
            None,
            CLEAN,
            0,
            "c was not checked: not found\n1 of 2 packages checked, 0 known vulnerabilities (asked: osv).\n",
        ),
        (UNKNOWN, REPORT, 1, "a 1: CVE-1\n2 of 2 packages checked, 1 known vulnerabilities (asked: osv).\n"),
        (UNKNOWN, None, 0, NONE),
        (None, None, 0, NONE),
    ],
    ids=["vulnerable", "the second answers", "the first knows none", "the only one knows none", "none answers"],
)
def test_an_answer_is_told_from_none(
    pypi: object, osv: object, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, report in (("pypi", pypi), ("osv", osv)):
        (tmp_path / name).write_text("" if report is None else json.dumps(report))
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncat "{tmp_path}/$last"\n')
    program.chmod(0o755)
    assert vulnerabilities.main(str(program), "lock.txt") == status
    assert capsys.readouterr().out == said
