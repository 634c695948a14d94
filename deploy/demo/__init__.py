"""`make demo`: pays invoices on this machine, through the real services."""
