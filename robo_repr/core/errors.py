"""Mistakes that a user can mend: one paragraph that says what was found, what was expected and what to do."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A user's mistake. Entry points print it as one paragraph and exit with 2."""


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
