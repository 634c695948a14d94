"""What is said of a payment: its published outcomes, its row, its refunds, its saga, its case and its invoice tell one story.

An outcome is stored with the message that announced it. So what a column says can be compared with the bytes that others were told, and
with what each of them kept of it.
"""
