"""Least privilege: what each RabbitMQ user and each PostgreSQL role may do, as data, and in the words of either server."""
