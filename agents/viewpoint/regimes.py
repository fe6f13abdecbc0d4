"""Training regimes: what a policy saw of moving cameras while it learned."""

import difflib
import json
import re

from envs.cameras import LEVELS, PRESETS, parse_camera
from robo_repr.core.errors import UserError, unknown

REGIMES = {
    "fixed": ("camera=L0",),
    "narrow": ("camera=L1",),
    "wide": ("camera=L3",),  # so that levels 4 and 5 stay held out
    # The cameras that stand outside stand at one of these places in each episode, but at their own place at deployment.
    "several": ("camera=among:front+left+right",),
    "conditioned": ("camera=L3", "camera_input=rays"),
}


def regime_words(regime: str) -> list[str]:
    """The words of the training command that make up a regime: one of `REGIMES`, or any camera setting, such as ``L3:shell``, which a
    policy is trained at.

    Raises:
        UserError: it is neither.
    """
    if regime in REGIMES:
        return list(REGIMES[regime])
    try:
        parse_camera("regime", regime)
    except UserError:
        if difflib.get_close_matches(regime, REGIMES, cutoff=0.5):
            raise unknown("regime", regime, [*REGIMES, *LEVELS, *PRESETS]) from None
        raise
    is_plain = re.fullmatch(r"[\w.:+@/-]+", regime)  # to the command line's grammar
    return [f"camera={regime if is_plain else json.dumps(regime, ensure_ascii=False)}"]
