"""Compares our payments with the gateway's own books, for a window of time. It changes nothing but the times of the next looks.

`fetch` copies the gateway's books into a file (`books`), `compare` judges one payment, and `run` goes through both sides.
"""
