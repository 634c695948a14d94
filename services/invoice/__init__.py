"""The invoice service. It owns invoices: it takes commands, and publishes events."""
