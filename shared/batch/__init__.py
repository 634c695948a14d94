"""The batch pipeline: a batch of messages is received, deduplicated, decided, stored in one transaction, published, acknowledged."""
