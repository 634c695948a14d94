"""Owns what people need: dead letters, payments in doubt, the journal."""
