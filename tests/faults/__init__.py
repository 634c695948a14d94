"""`make faults`: every fault of the catalogue against the real processes, then `remit audit`.

Three concepts:

- a **bed** (`bed.py`): databases, virtual host, sandbox gateway and the four services as processes, all its own, and a sender;
- a **trial** (`trial.py`): one fault. Its `run(bed, note)` sets the fault up, plays the workload, waits until the fault fired, undoes it;
- a **run** (`run.py`): which trials, on how many beds side by side, and the report.

After each trial the runner itself waits until everything has drained, asks the audit about all that the bed holds, and writes down
whether the fault fired, how long recovery took and what held. A trial that never fired has failed, and so has one that recovered
too late; one that this machine does not allow (`NotPossibleHereError`) is skipped, and neither held nor broken. `catalogue.py` says which
trials are for which fault of the catalogue.

**To add a family**: a module here with `trials() -> Sequence[Trial]`, named in `families.FAMILIES`. In a trial:

    async def run(bed: Bed, note: Note) -> None:
        await bed.restart("invoice", SOME_SETTING="1")  # or: take a server down, put a proxy in between (see `Bed.restart`)
        bed.play()                                       # the mix of the demo, in the background
        await bed.until(condition, what="it happened")
        note.fired()                                     # how often
        ...                                              # undo it
        note.mended()                                    # it is over: from now on everything drains
        note.recovered(await recovery_s(bed, "invoice"), within_s=SERVICE_WITHIN_S)  # where there is a limit (`recovery.py`)

Between a service and a server stands, where a trial wants it, a proxy (`proxy.py`, `network.Line`): it delays, drips, swallows, refuses,
resets, and drops just a confirm, an ack, an answer or the reply to a COMMIT (`frames.py`).

A service that ends by itself is started again at once, as a supervisor would, without its fault. Whoever kills a server of the stack
says `alone=True`: the trial gets a bed on a stack of its own, which it may open in its own way (`opens`). Whoever changes an environment
restores it by `bed.restart(service)`; what is left over is put right before the next trial.
"""
