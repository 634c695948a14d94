"""The errors that end an audit early."""


class AuditError(Exception):
    """The audit cannot go on. The message is one sentence: what could not be read, and what to do."""


class StoreAwayError(AuditError):
    """A store does not answer now. That may go away by itself: nothing about it has to be set otherwise."""
