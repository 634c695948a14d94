"""What stops an audit."""


class AuditError(Exception):
    """One sentence: what could not be read, and what to do."""
