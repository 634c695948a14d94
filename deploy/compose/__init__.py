"""What `deploy/compose.yaml` needs besides images: the passwords of a system that nobody has set up before."""
