"""The independent checker: `remit audit` reads the raw stores and says which lines of FAULTS.md hold.

It imports nothing of the services: what they believe, their tables have to show. Only URLs and the broker link come from `shared`.
"""
