"""Card gateways: the port every adapter implements, and the adapters."""
