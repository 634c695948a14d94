"""Card gateways: the port that every adapter implements, and the adapters."""
