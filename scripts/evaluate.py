"""How often a run's policy succeeds: python scripts/evaluate.py run=RUN_FOLDER [episodes=100] [camera=L1] [device=cpu]

    run       folder of a run of run_rl.py or run_imitation.py; its latest checkpoint acts
    episodes  fixed evaluation episodes of each task, each run to its end; default the run's eval_episodes
    camera    how far the cameras may deviate, L0 to L5; default the run's eval_camera

Adds a line to evaluations.jsonl in the folder and changes nothing else there, so the run may be training meanwhile.
"""

import re
import sys
from pathlib import Path

from robo_repr.core.errors import UserError, unknown

KEYS = ("run", "episodes", "camera", "device")


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        evaluate_run(parse(arguments))
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    return 0


def parse(arguments: list[str]) -> dict[str, str]:
    """The key=value words; refuses other keys and a missing run."""
    settings = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"'{argument}' is not understood. Settings are written key=value: {', '.join(f'{key}=' for key in KEYS)}.")
        if key not in KEYS:
            raise unknown("key", key, KEYS)
        settings[key] = value
    if "run" not in settings:
        raise UserError("No run is named. Write run=RUN_FOLDER, such as run=runs/rl/reach-mvp-sac-L1/s0.")
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", settings.get("episodes", "1")):
        raise UserError(f"episodes={settings['episodes']} is not possible. Write a whole number from 1 to 999999.")
    return settings


def evaluate_run(settings: dict[str, str]) -> None:
    # Late, so that mistakes above do not wait for torch.
    import torch

    from agents.evaluate import evaluate_agent
    from agents.load import load_run
    from agents.parts import choose_device
    from robo_repr.core.metrics import append_row
    from robo_repr.core.summary import percent, policy_name

    torch.set_num_threads(1)  # as in training: more fight with the renderer
    folder = Path(settings["run"])
    parts, cfg, step = load_run(folder, choose_device(settings.get("device", "cpu")))
    episodes = int(settings.get("episodes") or cfg.eval_episodes)
    camera = settings.get("camera", cfg.eval_camera)
    try:
        evaluation = evaluate_agent(cfg, parts, camera, episodes)
    finally:
        parts.env.close()
    result, episodes = evaluation.summary(), len(evaluation.success)
    steps = "env_steps" if cfg.command == "rl" else "step"
    row = {"by": "scripts/evaluate.py", "policy": policy_name(cfg.names[cfg.learner]), steps: step, "camera": camera}
    append_row(folder / "evaluations.jsonl", {**row, "appearance": cfg.appearance, **result, **evaluation.outcomes()})
    print(f"{folder}, step {step}, camera {camera}, {episodes} episodes:")
    print(f"success {percent(result['success'], episodes)} (held through the last 10 steps; the interval is Wilson's, 95 %)")
    print(f"at the end {result['success_end']:.0%}, ever {result['success_ever']:.0%}, return {result['return']:.2f}")
    print(f"written to {folder / 'evaluations.jsonl'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
