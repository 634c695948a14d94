"""The deployables. A service never imports another."""
