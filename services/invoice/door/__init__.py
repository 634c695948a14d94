"""The door: a process of the invoice service by which senders ask over HTTP for what messages tell. It only reads."""
