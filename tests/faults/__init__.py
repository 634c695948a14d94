"""`make faults`: injects every fault of the catalogue into the real processes, then runs `remit audit`.

Three concepts:

- a **testbed** (`testbed.py`): databases, virtual host, sandbox gateway, a sender, and the four services as processes, all its own;
- a **trial** (`trial.py`): one fault. Its `run(testbed, note)` sets a fault up, plays the workload, waits until it fired, and undoes it;
- a **run** (`run.py`): the trials that are run, the number of testbeds side by side, and the report.

After each trial the runner waits until everything has drained, runs the audit on all data of the testbed, and records whether the fault
fired, how long recovery took, and which checks held. A trial whose fault never fired has failed, and so has one that recovered too late. A
trial that this machine does not allow (`NotPossibleHereError`) is skipped: it neither held nor broke. `catalogue.py` lists the trials for
each fault of the catalogue.

**To add a family**, write a module here with `trials() -> Sequence[Trial]` and name it in `families.FAMILIES`. A trial looks like this:

    async def run(testbed: Testbed, note: Note) -> None:
        await testbed.restart("invoice", SOME_SETTING="1")  # or stop a server, or put a proxy in between (see `Testbed.restart`)
        testbed.play()                                       # the demo's mix of scenes, in the background
        await testbed.until(condition, what="it happened")
        note.fired()                                         # how often the fault happened
        ...                                                  # undo it
        note.mended()                                        # the fault is over: from now on everything drains
        note.recovered(await recovery_s(testbed, "invoice"), within_s=SERVICE_WITHIN_S)  # if recovery has a limit (`recovery.py`)

A trial may put a proxy between a service and a server (`proxy.py`, `network.Line`). The proxy delays, drips, swallows, refuses, resets, and
drops just a confirm, an ack, an answer or the reply to a COMMIT (`frames.py`).

A service that ends by itself is started again at once, without its fault, as a supervisor would do. A trial that kills a server of the
stack sets `alone=True`: it gets a testbed on a stack of its own, which it may open in its own way (`opens`). A trial that changes a
service's environment restores it by `testbed.restart(service)`. The runner undoes any other change before the next trial.
"""
