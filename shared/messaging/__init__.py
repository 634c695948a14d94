"""Topology as data, codec, consumer, publisher, dead letters: the only importer of aio_pika."""
