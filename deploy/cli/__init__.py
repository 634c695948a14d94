"""`remit`: the commands that operators type. It uses the services' code, and imports only what the chosen command needs."""
