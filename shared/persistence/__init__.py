"""PostgreSQL: database, migrations, event store, inbox, outbox. Only this package and a service's own store.py import asyncpg."""
