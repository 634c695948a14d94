"""What is published of the contracts for others: schemas, golden messages, the AsyncAPI document and its page, and released versions.

`python -m deploy.contract` writes all of it from the code (`make schema`). Tests compare it with the code.
"""
