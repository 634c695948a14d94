"""The independent checker: `remit audit` reads the raw stores and says which promises hold (`checks.py` lists them).

It imports nothing of the services: what they believe, their tables have to show. Of `shared` it takes data (contracts, the
topology), the link to the broker, and the search for card numbers.
"""
