"""Coordinates payments: events in, commands out, deadlines."""
