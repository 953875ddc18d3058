"""How every command of this package ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench.training import TrainingError
from bench.worker import WorkerError
from reference.config import ConfigError


def exit_code(command: Callable[[], int | None], goes_on_from: str = "") -> int:
    """Run a command, and print what ends it as one line in place of a traceback.

    2: the user's mistake, or a file that can't be read or written. 3: work that failed. 130: interrupted; `goes_on_from` says
    what the same command would start from. Else what the command returns, None as 0.
    """
    try:
        return command() or 0
    except (ConfigError, OSError) as error:  # OSError: a full disk, a folder that is gone
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted" + (f"; the same command goes on from {goes_on_from}" if goes_on_from else ""), file=sys.stderr)
        return 130
