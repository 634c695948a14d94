"""Database, migrations, event store, inbox, outbox: the only importer of asyncpg outside a service's own store.py."""
