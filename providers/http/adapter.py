"""The adapter for models behind HTTP, synchronous or asynchronous as the provider's config says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from providers.base import AsyncAdapter, Connection, EndpointConfig, Finished, Job, Outcome, ProviderConfig, SyncAdapter
from providers.http.client import HttpClient, NoAnswer, TooLarge, Unsendable
from providers.http.config import AsyncConfig, HttpConfig, read_base_url, read_config
from providers.http.connection import HttpConnection
from providers.http.outcomes import Ended, require_success, unavailable, unsendable
from providers.http.outputs import collect_outputs, seed_of, too_large
from providers.http.requests import build_request
from providers.http.sections import Section


def build(provider: ProviderConfig) -> SyncAdapter | AsyncAdapter:
    """The adapter that a provider's `mode` asks for. Raises AdapterConfigError naming the faulty option."""
    config = read_config(provider)
    return HttpSyncAdapter(config) if config.calls is None else HttpAsyncAdapter(config, config.calls)


class HttpSyncAdapter:
    """The answer to the request is the result. `concurrency` requests at once."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config

    def perform(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do the jobs; outcomes in the same order."""
        if not jobs:
            return []
        threads = min(self._config.concurrency, len(jobs))
        with HttpClient(self._config, base_url=self._config.base_url) as client, ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda job: self._perform_one(job, client), jobs))

    def _perform_one(self, job: Job, client: HttpClient) -> Outcome:
        config = self._config
        try:
            request = build_request(job, config)
            started = time.perf_counter()
            answer = client.send(request)
            seconds = time.perf_counter() - started
            require_success(answer, config=config, words=client.words, stage="execute")
            artifacts = collect_outputs(answer, config=config, client=client)
        except Ended as ended:
            return ended.outcome
        except NoAnswer as fault:
            # Also when the server may have done the work: asking again is all that HTTP leaves us.
            return unavailable(fault, "execute" if fault.is_sent else "dispatch")
        except TooLarge:
            return too_large()
        except Unsendable:
            return unsendable()
        return Finished(artifacts, seed=seed_of(answer, config), timing={"execute": round(seconds, 6)})


class HttpAsyncAdapter:
    """The answer to the request is a job, which is asked about until it is over."""

    def __init__(self, config: HttpConfig, calls: AsyncConfig) -> None:
        self._config = config
        self._calls = calls

    def connect(self, endpoint: EndpointConfig) -> Connection:
        """A connection to one server. Raises AdapterConfigError when its `base_url` is no address."""
        place = Section({}, f"Provider {self._config.code!r}: endpoint {endpoint.id}")
        return HttpConnection(self._config, self._calls, base_url=read_base_url(endpoint.base_url, place))
