"""What a person is told when something is wrong: one paragraph that says what was found, what was expected and what to do."""

import difflib
import math
from collections.abc import Iterable


class UserError(Exception):
    """A user's mistake. Entry points print it as one paragraph and exit with `exit_code`."""

    exit_code = 2


class Failure(UserError):
    """What goes wrong in the middle of work that was asked for rightly: a full disk, a lost context, numbers that are not finite."""

    exit_code = 1


def unknown(kind: str, found: str, options: Iterable[str]) -> UserError:
    """The error for a name that is not among the options; offers the nearest ones.

    Args:
        kind: the setting that was read, such as ``"encoder"``.
        found: what the user wrote.
        options: the names that exist.
    """
    names = sorted(options)
    near = difflib.get_close_matches(found, names, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(f'{kind}={name}' for name in near)}? " if near else ""
    return UserError(f"{kind}={found} is not known. {hint}There is: {', '.join(names)}.")


def check_range(key: str, value: object, low: float = -math.inf, high: float = math.inf, what: str = "", *, whole: bool = False) -> None:
    """Refuses what is no number in [low, high], NaN included.

    Args:
        key: the setting as a user writes it, such as ``"agent.gamma"``.
        what: what the setting means, for the message.
        whole: refuses fractions too.

    Raises:
        UserError: the value is outside, or no number.
    """
    kind = int if whole else int | float
    if isinstance(value, kind) and not isinstance(value, bool):
        if low <= value <= high:
            return
        bound = f"at most {high}" if value > high else f"at least {low}" if low > -math.inf else "a finite number"
    else:
        bound = "a whole number" if whole else "a number"
    raise UserError(f"{key}={value} is not possible. {key}{f' ({what})' if what else ''} must be {bound}.")
