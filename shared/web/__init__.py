"""What the processes share that people and programs ask over HTTP: the staff desk, and the door. No other process imports it."""
