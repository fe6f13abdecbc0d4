"""The one exception for mistakes that the user can repair."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A user's mistake, in one paragraph: what was found, what was expected, what to do. Commands print it and exit with code 2."""


def nearest(found: str, options: Iterable[str]) -> str:
    """A sentence with the most similar options, such as ``" Did you mean mvp?"``; empty if none is similar."""
    options = list(options)
    by_lower = {option.lower(): option for option in options}
    matches = [by_lower[name] for name in get_close_matches(found.lower(), by_lower, n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(matches)}?" if matches else ""


def unknown(kind: str, found: str, options: Iterable[str]) -> UserError:
    """The error for a name that is not in a list.

    Args:
        kind: the key whose value was read, such as ``"encoder"``.
        found: the value.
        options: the names that would work, listed in the order given.
    """
    options = list(options)
    listed = ", ".join(options) if options else "nothing (none is installed)"
    return UserError(f"{kind}={found} is unknown.{nearest(found, options)} Expected one of: {listed}.")
