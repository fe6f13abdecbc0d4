"""Records what cameras see of a policy: python scripts/record_clips.py task=reach episodes=50 out=demos (--help lists the keys).

The same command again goes on where it was stopped, by Ctrl-C or by kill -9; a larger episodes= adds to the store.
"""

import shlex

from robo_repr.core.cli import main
from robo_repr.core.config import RecordConfig


def run(config: RecordConfig, overrides: list[str]) -> int:
    # Late, so that --help and mistakes in the settings do not wait for torch.
    from agents.recording.record import record_all

    return record_all(config, shlex.join(["python", RecordConfig.program, *overrides]))


if __name__ == "__main__":
    main(RecordConfig, run)
