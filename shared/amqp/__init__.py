"""AMQP 0-9-1 itself: frames, the transport below the client library, and links to the broker. No word of Remit is known here."""
