"""The fault drill: the real processes under load while a seeded script breaks them; at the end nothing may be lost or doubled.

    make drill MINUTES=10 SEED=1        # or: python -m tests.faults --minutes 10 --seed 1

On a PostgreSQL and a Valkey of its own, whatever DATABASE_URL says. docs/faults.md says what is broken and what is checked.

plan       what is broken, when and for how long: from the seed alone
house      the processes, and the signals they get
breaking   one generator for each kind of fault
recovery   how long it took until what a fault had hit went on
clients    the load: requests that are repeated until they are answered
evidence   everything that is known at the end; checks: what must hold of it; report: what is said about it
functions, model_server, receiver    what runs, and is told to misbehave: a local function, a ComfyUI server, a callback's URL
"""
