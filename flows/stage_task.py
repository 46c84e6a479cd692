"""A stage as a task of a Prefect flow: what may pass is tried again, and Prefect stores no secret."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from pipeline.errors import RunFailed, Stopped, Unavailable, UserError
from pipeline.redact import redact_within


def _worth_another_try(task: Any, run: Any, state: Any) -> bool:
    """A dead server or a full queue may pass; a user's mistake, a wish to stop and a diverged run do not."""
    try:
        state.result()
    except Unavailable:
        return True
    except (UserError, Stopped, RunFailed):
        return False
    except Exception:
        return True
    return False


def stage_task(function: Callable) -> Any:
    """A task. Stages keep their own results by the digest of their inputs: a retry goes on from what is there."""

    @wraps(function)
    def redacted(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # whose text Prefect stores
            error.args = tuple(redact_within(one) if isinstance(one, str) else one for one in error.args)
            raise

    settings: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [5, 30]}
    return task(cache_policy=NO_CACHE, retry_condition_fn=_worth_another_try, **settings)(redacted)
