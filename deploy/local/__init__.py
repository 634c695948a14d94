"""A private RabbitMQ and PostgreSQL for one machine: see `deploy.local.stack.open_stack`."""
