"""The services, one package each. A service never imports another.

Each has a pure core, which has one of two shapes:

- A decider, where events are the truth. `decide(command, state)` returns the events that the command causes, or a rejection, which is a
  value. `evolve(state, event)` returns the state after an event. The invoice is a decider.
- A state machine, where the stored state is the truth. Each function takes the state and one thing that happened, and returns the new state
  together with its effects. The saga (`transition`) and the payment (`on_command`, `on_answer`, `on_late_answer`) are state
  machines. So are staff's case (`evolve`) and dead letter (`arrive`, `settle`), which have no effects.

If a core raises an exception, that is a bug.
"""
