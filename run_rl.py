"""Trains a policy from pictures: python run_rl.py encoder=mvp task=reach (--help lists the keys)."""

from robo_repr.core.cli import main
from robo_repr.core.config import RLConfig


def run(config: RLConfig, overrides: list[str]) -> int:
    # Late, so that --help and mistakes in the settings do not wait for torch.
    from agents.train import train

    return train(config, overrides)


if __name__ == "__main__":
    main(RLConfig, run)
