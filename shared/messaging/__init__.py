"""Remit's messages on the broker: topology as data, codec, consumer, publisher, dead letters."""
