"""The actions of people, as plain functions on the database. The desk and the command line use them, and nothing else writes.

An action is one transaction. It locks and checks the row, and stores the journal entry, the new state and the messages (in the outbox)
together. So a crash leaves all or nothing. If two people act at once, the second one is told what the first one did. Nothing here speaks to
the broker: the running staff service publishes its outbox within a second.
"""
