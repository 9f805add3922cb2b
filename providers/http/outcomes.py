"""What an answer means: retry classes by status code, and the provider's own errors in words for the customer."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from providers.base import Rejected, Stage, Unavailable
from providers.http.client import Answer, NoAnswer
from providers.http.config import HttpConfig
from providers.http.words import Words
from runflow.lib import jsonlib

logger = logging.getLogger(__name__)

# The two that say "it took too long" themselves (RFC 9110 sections 15.5.9 and 15.6.5).
_TIMEOUT_STATUSES = frozenset({408, 504})
# About this server's key, not about the customer's input; some quote half of the key.
_CREDENTIAL_STATUSES = frozenset({401, 403, 407})
# RFC 9110 section 10.2.3 has whole seconds; fractions are seen. Ten digits are three hundred years.
_SECONDS = re.compile(r"([0-9]{1,10})(\.[0-9]+)?")


class Ended(Exception):
    """An attempt is over before it has outputs; `outcome` says how."""

    def __init__(self, outcome: Rejected | Unavailable) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


def require_success(answer: Answer, *, config: HttpConfig, words: Words, stage: Stage) -> None:
    """Return if the provider took the request and did not complain. Raises Ended.

    a retryable status      Unavailable PROVIDER_UNAVAILABLE, or PROVIDER_TIMEOUT for 408 and 504; Retry-After is kept
    any other but 2xx       Rejected PROVIDER_REJECTED
    2xx that is no JSON but says so   Unavailable PROVIDER_UNAVAILABLE
    2xx with an `error`     Rejected EXECUTION_FAILED
    """
    if not answer.is_success:
        raise Ended(_refusal(answer, config=config, words=words, stage=stage))
    if not answer.is_readable:
        raise Ended(Unavailable("PROVIDER_UNAVAILABLE", "The provider's answer cannot be read.", stage))
    if (error := error_of(answer, config=config, words=words)) is not None:
        raise Ended(Rejected("EXECUTION_FAILED", error or "The provider reports an error.", stage))


def error_of(answer: Answer, *, config: HttpConfig, words: Words) -> str | None:
    """What the config's `error` expression finds, as the customer may read it: "" for no words, None for no error."""
    found = config.error.search(answer.view) if config.error is not None else None
    if not found:
        return None
    return words.told(found if isinstance(found, str) else jsonlib.dumps(found).decode())


def unavailable(fault: NoAnswer, stage: Stage) -> Unavailable:
    return Unavailable(fault.code, str(fault), stage)


def unsendable() -> Rejected:
    return Rejected(
        "TEMPLATE_INVALID", "The model's template and these inputs make no request that can be sent.", "dispatch"
    )


def _refusal(answer: Answer, *, config: HttpConfig, words: Words, stage: Stage) -> Rejected | Unavailable:
    logger.warning("Provider %s answered HTTP %s", config.code, answer.status)
    if answer.status in _CREDENTIAL_STATUSES:
        error = "The provider does not accept this server's credentials."
    else:
        error = error_of(answer, config=config, words=words) or f"The provider answered HTTP {answer.status}."
    if answer.status not in config.retryable_statuses:
        return Rejected("PROVIDER_REJECTED", error, stage)
    code = "PROVIDER_TIMEOUT" if answer.status in _TIMEOUT_STATUSES else "PROVIDER_UNAVAILABLE"
    return Unavailable(code, error, stage, retry_after=retry_after(answer, now=datetime.now(UTC)))


def retry_after(answer: Answer, *, now: datetime) -> float | None:
    """Seconds that the provider asks for, as a number or as a date (RFC 9110 section 10.2.3); None when it does not."""
    text = answer.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
