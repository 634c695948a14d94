"""AMQP 0-9-1 itself: frames, the transport below the client library, and links to the broker. Nothing here is specific to Remit."""
