"""Loose bounds on time that a busy machine does not break."""

import time
from collections.abc import Callable


def is_quick(function: Callable[[], object], seconds: float, tries: int = 5) -> bool:
    """Whether a call takes less CPU time than `seconds` in one of some tries: neighbours make a try slow, not fast."""
    for _ in range(tries):
        started = time.process_time()
        function()
        if time.process_time() - started < seconds:
            return True
    return False
