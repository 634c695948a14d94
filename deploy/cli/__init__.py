"""`remit`: what operators type. It sits above the services and imports only what a command needs, when it needs it."""
