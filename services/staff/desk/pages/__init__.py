"""The pages of the desk, a room each."""
