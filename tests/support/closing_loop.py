"""The event loop of the tests."""

import warnings

import uvloop


class ClosingLoop(uvloop.Loop):
    """A loop that closes what a test left open, and then complains.

    uvloop warns of each open connection before it closes that. A warning is an error here, which keeps it open, and then uvloop waits for
    its end for ever: a test that had failed before it closed a connection stopped the whole run, and nobody saw why it had failed.
    """

    def close(self) -> None:
        with warnings.catch_warnings(record=True) as left_open:
            warnings.simplefilter("always", ResourceWarning)
            super().close()
        for warning in left_open:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
