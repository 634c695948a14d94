"""The independent checker: `remit audit` reads the raw stores and reports which promises hold (`checks.py` lists them).

It imports no code of the services: their tables must prove what they claim. From `shared` it takes only data (contracts, the topology), the
link to the broker, and the search for card numbers.
"""
