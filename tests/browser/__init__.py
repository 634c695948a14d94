"""Tests of the staff desk in a real browser."""
