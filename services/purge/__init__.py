"""Takes a card number out of the databases of all services, after it got in by a fault of ours or by hand.

It is no service: a person runs it (`remit purge`), beside the running services, as the role `remit_purge`, which may do what no service may
(`remit permissions`).
"""
