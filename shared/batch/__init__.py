"""How a batch of messages becomes one transaction: received, recognised, decided, stored, published, acknowledged."""
