"""Takes a card number out of the databases of all services, after it got in by a fault of ours or by hand.

It is no service: a person runs it (`remit purge`), beside the running services, with roles that may do what no service may. `RIGHTS` in
`places` says what these roles need.
"""
