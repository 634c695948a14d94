"""The deployables. A service never imports another.

Each has a pure core, of one of two shapes:

- A decider, where events are the truth: `decide(command, state)` gives the events that the command brings about, or a rejection, which is
  a value; `evolve(state, event)` gives the state after one of them. The invoice is one.
- A state machine, where the stored state is the truth: each function takes the state and one thing that happened, and gives the state
  afterwards with what follows from it. The saga is one (`transition`), the payment (`on_command`, `on_answer`, `on_late_answer`, `on_due`),
  staff's case (`evolve`) and dead letter (`arrive`, `settle`), from which nothing follows.

An exception out of either is a bug.
"""
