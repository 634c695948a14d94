"""The sandbox card gateway: Stripe's HTTP API over a durable ledger, with faults chosen by the test token. See
README.md.
"""
