"""How often a run's policy succeeds: python scripts/evaluate.py run=RUN_FOLDER [episodes=100] [camera=L1] [device=cpu]

    run       folder of a run_rl.py run; its latest checkpoint acts
    episodes  fixed evaluation episodes, each run to its end; default the run's eval_episodes
    camera    how far the cameras may deviate, L0 to L5; default the run's eval_camera

Adds a line to evaluations.jsonl in the folder and changes nothing else there.
"""

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
        print(error, file=sys.stderr)
        return 2
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
    if not settings.get("episodes", "1").isdecimal() or int(settings.get("episodes", "1")) < 1:
        raise UserError(f"episodes={settings['episodes']} is not possible. Write a whole number, at least 1.")
    return settings


def evaluate_run(settings: dict[str, str]) -> None:
    # Late, so that mistakes above do not wait for torch.
    import torch

    from agents.base import AgentPolicy
    from agents.evaluate import evaluate, evaluation_env
    from agents.parts import choose_device, env_settings, load_run, needs_pictures
    from robo_repr.core.metrics import Metrics
    from robo_repr.core.report import percent

    torch.set_num_threads(1)  # as in training: more fight with the renderer
    folder = Path(settings["run"])
    parts, cfg, step = load_run(folder, choose_device(settings.get("device", "cpu")))
    episodes = int(settings.get("episodes", cfg.eval_episodes))
    camera = settings.get("camera", cfg.eval_camera)
    try:
        with evaluation_env(episodes, **env_settings(cfg, camera, needs_pictures(parts.encoder))) as env:
            result = evaluate(env, AgentPolicy(parts.agent), episodes).summary()
    finally:
        parts.env.close()
    row = {"policy": "trained", "env_steps": step, "camera": camera, "appearance": cfg.appearance, **result}
    evaluations = Metrics(folder / "evaluations.jsonl")
    evaluations.write(row)
    evaluations.close()
    print(f"{folder}, step {step}, camera {camera}, {episodes} episodes:")
    print(f"success {percent(result['success'], episodes)} (held through the last 10 steps; the interval is Wilson's, 95 %)")
    print(f"at the end {result['success_end']:.0%}, ever {result['success_ever']:.0%}, return {result['return']:.2f}")
    print(f"written to {folder / 'evaluations.jsonl'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
