"""Owns invoices: commands in, events out."""
