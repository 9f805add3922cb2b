"""The adapter for Python functions: looks a job's function up, calls it, and words what came of it."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from providers.base import (
    AdapterConfigError,
    Artifact,
    Canceled,
    FetchError,
    Finished,
    Job,
    Outcome,
    ProviderConfig,
    Rejected,
    Unavailable,
)
from providers.local.functions import (
    LOCAL_FUNCTION_MODULES,
    Context,
    LocalFunction,
    Refused,
    Stopped,
    TryLater,
    functions_in,
)

logger = logging.getLogger(__name__)


class _TemplateError(Exception):
    """The job's body does not say which function to call, or not how.

    `str()` of it is written for the customer.
    """


class LocalAdapter:
    """Runs Python functions in this process, one job after the other.

    One after the other because the functions are bound by CPU: more of them at once is a matter of worker
    processes. A thread of Python cannot be stopped from outside: a function looks itself whether its time is over
    (`Context.stop_if_asked`), and the lease of a run decides about a worker that never comes back.
    """

    def __init__(self, config: ProviderConfig) -> None:
        """Import the function modules.

        Raises AdapterConfigError when one is missing or two offer the same name.
        """
        self._functions = _collect(config)

    def perform(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do the jobs; outcomes in the same order."""
        return [self._perform_one(job) for job in jobs]

    def _perform_one(self, job: Job) -> Outcome:
        """Call the job's function and translate what it returns or raises into an outcome.

        asked to stop      Canceled, before it began or when the function looked
        a result           Finished
        bad body           Rejected TEMPLATE_INVALID (dispatch)
        FetchError         Rejected or Unavailable INPUT_FETCH_FAILED (preprocess), as the error says
        Refused            Rejected EXECUTION_FAILED, with the function's words
        TryLater           Unavailable PROVIDER_UNAVAILABLE, with the function's words
        OSError, no memory Unavailable PROVIDER_UNAVAILABLE
        any other          Rejected EXECUTION_FAILED, in general words
        """
        if job.should_stop():
            return Canceled()
        context = Context(run_id=job.run_id, attempt=job.attempt, fetch=job.fetch, should_stop=job.should_stop)
        started = time.perf_counter()
        try:
            function, arguments = self._resolve(job.body, context)
            artifacts = _artifacts(function(context, **arguments))
        except Stopped:
            return Canceled()
        except _TemplateError as fault:
            return Rejected("TEMPLATE_INVALID", str(fault), "dispatch")
        except FetchError as fault:
            failed = Unavailable if fault.is_retryable else Rejected
            return failed("INPUT_FETCH_FAILED", str(fault), "preprocess")
        except Refused as fault:
            return Rejected("EXECUTION_FAILED", str(fault))
        except TryLater as fault:
            return Unavailable("PROVIDER_UNAVAILABLE", str(fault), retry_after=fault.retry_after)
        except (OSError, MemoryError):
            # A full disk, no descriptors, no memory: the state of this machine, not of the input. If it is
            # a function's bug after all, the bounded number of attempts ends it; the other wrong guess
            # would cost the customer a result.
            logger.exception("Local function out of resources", extra={"run_id": job.run_id})
            return Unavailable("PROVIDER_UNAVAILABLE", "The worker ran short of a resource.")
        except Exception:
            # Operators' functions may raise anything, and the exception's own words may hold paths or
            # secrets.
            logger.exception("Local function failed", extra={"run_id": job.run_id})
            return Rejected("EXECUTION_FAILED", "The function failed on this input.")
        return Finished(artifacts, timing={"execute": round(time.perf_counter() - started, 6)})

    def _resolve(self, body: Any, context: Context) -> tuple[LocalFunction, dict[str, Any]]:
        """Find the function that `body` names and check that it takes these arguments.

        Raises _TemplateError.
        """
        if not isinstance(body, dict) or not isinstance(body.get("function"), str):
            raise _TemplateError("The model's template names no function.")
        name, arguments = body["function"], body.get("arguments", {})
        if name not in self._functions:
            raise _TemplateError(f"The model's template names an unknown function, {name!r}.")
        if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
            raise _TemplateError("The arguments in the model's template are not an object.")
        function = self._functions[name]
        try:
            # Checked before the call, so that a TypeError from inside the function is not taken for a bad
            # template.
            inspect.signature(function).bind(context, **arguments)
        except TypeError as fault:
            raise _TemplateError(f"The arguments in the model's template do not fit {name!r}: {fault}.") from fault
        return function, arguments


def _collect(config: ProviderConfig) -> dict[str, LocalFunction]:
    more = config.config.get("modules", [])
    if not isinstance(more, list) or not all(isinstance(path, str) for path in more):
        raise AdapterConfigError(f"Provider {config.code!r}: `modules` must be a list of dotted paths.")
    functions: dict[str, LocalFunction] = {}
    for path in (*LOCAL_FUNCTION_MODULES, *more):
        try:
            found = functions_in(import_module(path))
        except ImportError as fault:
            raise AdapterConfigError(f"Provider {config.code!r}: cannot import {path!r} ({fault}).") from fault
        for name, function in found.items():
            if functions.setdefault(name, function) is not function:
                raise AdapterConfigError(f"Provider {config.code!r}: two functions are named {name!r}.")
    return functions


def _artifacts(result: object) -> tuple[Artifact, ...]:
    artifacts = (result,) if isinstance(result, Artifact) else result
    if not isinstance(artifacts, (tuple, list)):
        raise TypeError(f"A local function returned {type(result).__name__}, not artifacts.")
    for artifact in artifacts:
        if not isinstance(artifact, Artifact):
            raise TypeError(f"A local function returned {type(artifact).__name__} among its artifacts.")
    return tuple(artifacts)
