"""The error that ends an audit early."""


class AuditError(Exception):
    """The audit cannot go on. The message is one sentence: what could not be read, and what to do."""
