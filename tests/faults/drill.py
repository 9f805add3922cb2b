"""A drill from beginning to end. Imported once the environment names the drill's own servers."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from django.core.management import call_command
from django.db import connection

from batches import audit
from callbacks.services import create_secret
from models_registry.models import Endpoint, Model, ModelInput, Provider, ProviderLink, Template
from runflow.stack.session import StackError
from tests.e2e.servers import GRAPH
from tests.factories import make_key, make_model, make_organization, make_provider
from tests.faults.checks import Result, check_all
from tests.faults.clients import Client, Customer, Ledger
from tests.faults.director import Director
from tests.faults.evidence import LOG_MOVES, Evidence, read_executions, read_rows
from tests.faults.house import APPLICATION, MODEL_SERVERS, PLACES, House
from tests.faults.plan import Fault, make_plan
from tests.faults.receiver import Callbacks
from tests.faults.recovery import Eyes, Recoveries

# And one more, with an organization of its own, that sends slow runs: claims take turns between organizations, so that these
# are claimed at once whatever else waits, and what a late worker lost is being done again when that one comes back.
CLIENTS = 6
# Seconds that a local run takes, that a slow one takes, and that one at a server may take: longer than any hang.
LOCAL_SECONDS, SLOW_SECONDS, RUN_TIMEOUT = 0.05, 2.0, 30


@dataclass(slots=True)
class Outcome:
    """What a drill came to."""

    seed: int
    seconds: float
    faults: list[Fault]
    ledger: Ledger
    evidence: Evidence
    director: Director
    results: list[Result]
    drained_in: float

    @property
    def is_good(self) -> bool:
        return not any(result.wrong for result in self.results)


def run_drill(
    *, house: House, database_url: str, redis_url: str, seed: int, seconds: float, say: Callable[[str], None]
) -> Outcome:
    """Set everything up, break things under load, wait for the end, and check. Raises StackError where that cannot go on."""
    ledger, is_over = Ledger(), threading.Event()
    plan = make_plan(seed=seed, seconds=seconds)
    with Callbacks() as callbacks, contextlib.closing(Eyes(database_url)) as eyes:
        _prepare_database(database_url)
        *customers, patient = (_make_customer(callbacks) for _ in range(3))
        models = _make_models(house)
        connection.close()  # PostgreSQL will not be there for it
        for name in (*MODEL_SERVERS, *APPLICATION):
            house.start(name)
        house.wait_for(*APPLICATION)
        recoveries = Recoveries(eyes)
        director = Director(house, callbacks, recoveries, eyes, redis_url, random.Random(seed), say)
        base_url = f"http://127.0.0.1:{house.ports['web']}"
        clients = [
            Client(
                number,
                seed=seed,
                base_url=base_url,
                customer=customers[number % len(customers)] if number < CLIENTS else patient,
                models=models,
                ledger=ledger,
                is_over=is_over,
                is_slow=number == CLIENTS,
            )
            for number in range(CLIENTS + 1)
        ]
        for client in clients:
            client.start()
        try:
            director.break_things(plan, seconds)
        finally:
            is_over.set()
        say("no more faults; waiting for what was accepted")
        while any(client.is_alive() for client in clients):
            director.look()
        drained_in = director.drain()
    evidence = Evidence(
        accepted=ledger.accepted,
        given_up=ledger.given_up,
        cancelled=ledger.cancelled,
        complaints=ledger.wrong,
        executions=list(read_executions(house.executions)),
        jobs=list(read_executions(house.jobs)),
        receipts=callbacks.receipts,
        windows=director.windows,
        findings=_audit(),
        slow=_slow(recoveries),
        ended=director.unexplained,
    )
    read_rows(evidence, database_url=database_url, media=house.media)
    return Outcome(seed, seconds, plan, ledger, evidence, director, check_all(evidence), drained_in)


def _prepare_database(database_url: str) -> None:
    """Tables; a log of what moves; and commits that outlive a crash."""
    call_command("migrate", verbosity=0)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(LOG_MOVES)
        # A scratch server acknowledges commits that it has not written yet: right for tests, and lost when it is killed.
        # (fsync may stay off: the machine does not crash.)
        admin.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = on")
    with psycopg.connect(database_url) as fresh:
        if fresh.execute("SHOW synchronous_commit").fetchone() != ("on",):
            raise StackError("commits of this PostgreSQL would not outlive its crash")
    connection.close()  # one from before


def _make_customer(callbacks: Callbacks) -> Customer:
    organization = make_organization()
    _, key = make_key(organization)
    _, secret = create_secret(organization=organization, label="drill")
    callbacks.secrets[organization.slug] = secret
    return Customer(str(organization.pk), key, f"{callbacks.url}/{organization.slug}")


def _make_models(house: House) -> dict[str, str]:
    """Two of a local function, in one queue, and one of two servers. Returns their paths."""
    provider = make_provider(config={"modules": ["tests.faults.functions"]}, claim_size=4, run_timeout=RUN_TIMEOUT)
    local, slow = (_make_local_model(provider, seconds) for seconds in (LOCAL_SECONDS, SLOW_SECONDS))
    servers = make_provider(adapter_code="comfyui", config={"timeout": 2}, run_timeout=RUN_TIMEOUT)
    for name in MODEL_SERVERS:
        url = f"http://127.0.0.1:{house.ports[name]}"
        Endpoint.objects.create(provider=servers, base_url=url, max_in_flight=PLACES)
    at_servers = make_model(provider=servers, inputs=(), is_template_backed=False)
    ModelInput.objects.create(model=at_servers, name="color", variable_type_code="integer", is_required=True)
    _link(at_servers, GRAPH, "color", "/1/inputs/color")
    return {"local": str(local), "slow": str(slow), "servers": str(at_servers)}


def _make_local_model(provider: Provider, seconds: float) -> Model:
    text = {"name": "text", "variable_type_code": "string", "is_required": True}
    model = make_model(provider=provider, inputs=[text], is_template_backed=False)
    _link(model, {"function": "drill", "arguments": {"text": None, "seconds": seconds}}, "text", "/arguments/text")
    return model


def _link(model: Model, body: object, name: str, target: str) -> None:
    template = Template.objects.create(
        name=f"drill-{model.slug}", body=body, bindings=[{"input": name, "target": target}]
    )
    ProviderLink.objects.filter(model=model).update(template=template)


def _audit() -> list[str]:
    try:
        findings = audit.verify().findings
    finally:
        connection.close()
    return [
        f"{each.check}: {each.count} times, {each.rule}; {each.examples[0].subject}: {each.examples[0].detail}"
        for each in findings
    ]


def _slow(recoveries: Recoveries) -> list[str]:
    texts = [
        f"{each.kind.name}: {each.took:.1f} s after {each.target} {each.fault}, at most {each.kind.most:.0f} s are allowed"
        for each in recoveries.over
        if each.is_too_slow
    ]
    return texts + [
        f"{each.kind.name}: not within {each.took:.1f} s after {each.target} {each.fault}" for each in recoveries.open
    ]
