"""The front door: a dataclass per command, parts as YAML files, and every mistake as one paragraph with exit code 2.

Hydra composes ``key=value`` overrides with the YAML files under configs/; nothing behind this module knows Hydra.
"""

import dataclasses
import difflib
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import yaml

from robo_repr.core.errors import UserError, unknown

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# They say where and how long, not what is learned: they never enter the name of a run.
NOT_IN_NAME = ("task", "encoder", "agent", "camera", "seed", "steps", "eval_episodes", "logger", "device", "tag", "run_dir", "fresh")


def config_names(group: str) -> list[str]:
    """Names of the parts in configs/<group>/: the folder is the registry."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def load_part(group: str, name: str) -> dict:
    """The keys of configs/<group>/<name>.yaml; a `UserError` offers the nearest name."""
    if name not in config_names(group):
        raise unknown(group, name, config_names(group))
    return yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8"))


def build(node: dict, **extra: Any) -> Any:
    """Calls the class that ``_target_`` names with the node's other keys and `extra`."""
    keywords = {**node, **extra}
    module, name = keywords.pop("_target_").rsplit(".", 1)
    return getattr(import_module(module), name)(**keywords)


def key(default: Any, text: str, *, first: bool = False, low: float | None = None, options: tuple[str, ...] = ()) -> Any:
    """A key of a command: its default, one line for --help, and what it may be. `first` marks what a newcomer needs."""
    metadata = {"help": text, "first": first, "low": low, "options": options}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RLConfig:
    """Trains a policy that sees through an encoder, films it and says how often it succeeds."""

    command: ClassVar[str] = "rl"
    program: ClassVar[str] = "run_rl.py"
    groups: ClassVar[dict[str, str]] = {"encoder": "mvp", "agent": "sac", "budget": "default"}
    examples: ClassVar[tuple[str, ...]] = (
        "python run_rl.py encoder=mvp task=reach",
        "python run_rl.py encoder=pixels task=reach 'views=[front,wrist]' camera=L3 seed=1",
        "python run_rl.py -m encoder=mvp,random,pixels seed=0,1,2",
    )

    encoder: Any = key({}, "what turns pictures into features", first=True)
    agent: Any = key({}, "what learns", first=True)
    task: Any = key("reach", "what the robot must do", first=True)
    variant: str | None = key(None, "size of the encoder; null = the encoder's default")
    weights: str | None = key(None, "null = the bundled ones, random = untrained, or a file")
    readout: str = key("grid4", "what the policy gets of the features", options=("grid4", "pooled"))
    encoder_mode: str = key("frozen", "which part of the encoder learns", options=("frozen",))
    camera_input: bool = key(False, "gives the policy the cameras' poses")
    views: Any = key(None, "cameras, such as [front,wrist]; null = the task's choice", first=True)
    camera: Any = key("L1", "how far cameras move per training episode, L0 (fixed) to L5", first=True)
    eval_camera: Any = key("L1", "the same for evaluation")
    appearance: str = key("plain", "random: table, floor, light and distractors change per episode", options=("plain", "random"))
    quality: str = key("fast", "full: shadows, reflections and antialiasing, 40 times slower", options=("fast", "full"))
    image_size: int = key(84, "height and width of the pictures in pixels", low=8)
    privileged: bool = key(False, "adds what only the simulator knows (the ball's place) to the state")
    reward: str = key("dense", "dense or sparse", options=("dense", "sparse"))
    horizon: int | None = key(None, "steps per episode; null = the task's own", low=1)
    frame_stack: int = key(1, "pictures per view that the policy sees", low=1)
    steps: int = key(25000, "environment steps to train for", first=True, low=1)
    num_envs: int = key(16, "worlds that are stepped together", low=1)
    updates_per_step: float = key(0.25, "gradient updates per environment step", low=0)
    eval_every: int | None = key(None, "environment steps between evaluations; null = three spread over the training", low=1)
    eval_episodes: int = key(100, "episodes of the final evaluation", low=1)
    log_every: int = key(800, "environment steps between rows of metrics.jsonl", low=1)
    checkpoint_every: int = key(5000, "environment steps between checkpoints", low=1)
    save_replay: bool = key(True, "keeps the replay in checkpoints: without it a resumed run is not exact")
    seed: int = key(0, "root of all random numbers", first=True, low=0)
    device: str = key("cpu", "cpu, cuda, cuda:N, mps, or auto")
    sim: str = key("threads", "the engine that steps the worlds", options=("threads",))
    logger: str = key("tensorboard", "tensorboard or none; metrics.jsonl is always written", options=("tensorboard", "none"))
    tag: str | None = key(None, "a name for this run's folder instead of the overrides")
    run_dir: str | None = key(None, "the exact folder of the run; default runs/rl/<name>/s<seed>")
    fresh: bool = key(False, "moves an old run of the same name aside instead of resuming it")
    names: dict[str, str] = field(default_factory=dict)  # which file each part came from; filled by `main`

    def validate(self) -> None:
        """Checks ranges and options; raises `UserError`. Names of tasks and cameras are checked where they are known, in envs."""
        check(self)
        if not re.fullmatch(r"cpu|auto|mps|cuda(:\d+)?", self.device):
            raise UserError(f"device={self.device} is not known. Use cpu, cuda, cuda:N, mps, or auto.")

    @property
    def run_name(self) -> str:
        """task-encoder-agent-camera; see `run_name`."""
        return f"{self.task}-{self.names['encoder']}-{self.names['agent']}-{self.camera}"


def check(config: Any) -> None:
    """Ranges and options as the keys declare them."""
    for item in dataclasses.fields(config):
        value, low, options = getattr(config, item.name), item.metadata.get("low"), item.metadata.get("options")
        if options and value not in options:
            raise unknown(item.name, str(value), options)
        if low is not None and value is not None and not value >= low:
            raise UserError(f"{item.name}={value} is not possible. {item.name} ({item.metadata['help']}) must be at least {low}.")


def run_name(config: Any, overrides: list[str]) -> str:
    """Folder name of a run: what it is, and a tag for every override that the name does not tell; never with "=" in it."""
    if config.tag:
        tag = config.tag
    else:
        told = [o for o in overrides if o.lstrip("+~").split("=")[0] not in NOT_IN_NAME]
        tag = "-".join(sorted(o.lstrip("+~").replace("=", "_") for o in told))
    text = "-".join(part for part in (config.run_name, tag) if part)
    safe = re.sub(r"-*[^\w.,-]+-*", "-", text).strip("-.")
    return safe if len(safe) <= 120 else f"{safe[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def main(config_class: type, run: Callable[[Any, list[str]], int]) -> None:
    """Runs a command: composes its configuration from the command line, calls ``run(config, overrides)`` and exits with its code.

    With ``-m`` (Hydra's multirun) every combination runs in turn; an error then stops the sweep.
    """
    # OpenMP threads that spin while they wait take a core from the renderer; read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = sys.argv[1:]
    try:
        if {"-h", "--help"} & set(arguments):
            print(help_page(config_class))
            sys.exit(0)
        _check_arguments(config_class, arguments)
        sys.exit(_with_hydra(config_class, run))
    except UserError as error:
        _complain(str(error))
        sys.exit(2)


def _with_hydra(config_class: type, run: Callable[[Any, list[str]], int]) -> int:
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    codes, mistakes = [0], []

    def job(node: Any) -> None:
        OmegaConf.resolve(node)
        values = OmegaConf.to_container(node)
        hydra_config = HydraConfig.get()
        chosen, overrides = hydra_config.runtime.choices, list(hydra_config.overrides.task)
        config = config_class(**{**values, "names": {group: chosen[group] for group in config_class.groups}})  # type: ignore[arg-type]
        try:
            config.validate()
            codes.append(run(config, overrides))
        except UserError as mistake:
            if hydra_config.mode == RunMode.MULTIRUN:
                raise
            mistakes.append(mistake)  # raised in here, Hydra would print its own line first

    ConfigStore.instance().store(name=config_class.command, node=_schema(config_class))
    door = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_class.command)(job)
    try:
        door()
    except (HydraException, OmegaConfBaseException) as error:
        raise _translated(config_class, error) from error
    if mistakes:
        raise mistakes[0]
    return max(codes)


def _schema(config_class: type) -> Any:
    """What Hydra composes: the keys with their types, the groups' defaults, and settings that keep Hydra from writing files."""
    from omegaconf import OmegaConf

    schema = OmegaConf.structured(config_class)
    OmegaConf.set_struct(schema, False)
    del schema["names"]
    hydra_settings = {
        "run": {"dir": "."},
        "sweep": {"dir": "runs/sweeps/${now:%Y-%m-%d_%H-%M-%S}", "subdir": "${hydra.job.num}"},
        "output_subdir": None,
    }
    parts = [{group: name} for group, name in config_class.groups.items() if group != "budget"]
    last = [{"budget": config_class.groups["budget"]}] if "budget" in config_class.groups else []
    quiet = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    return OmegaConf.merge(OmegaConf.create({"defaults": [*parts, "_self_", *last, *quiet], "hydra": hydra_settings}), schema)


def _check_arguments(config_class: type, arguments: list[str]) -> None:
    """Catches what Hydra would answer in its own words: other words than key=value, and keys that do not exist."""
    known = {item.name for item in dataclasses.fields(config_class) if item.name != "names"} | set(config_class.groups)
    multirun = {"-m", "--multirun"} & set(arguments)
    for argument in arguments:
        if argument in ("-m", "--multirun"):
            continue
        if argument.startswith("-") or "=" not in argument:
            raise UserError(f"'{argument}' is not understood. Settings are written key=value; --help lists the keys, -m runs a sweep.")
        name = argument.lstrip("+~").split("=")[0]
        root = re.split(r"[.@/]", name)[0]
        if root not in known and root != "hydra":
            raise _unknown_key(name, known)
        if multirun and root == "run_dir":
            raise UserError(
                "run_dir= names one folder, so it cannot be combined with -m. Leave it out: every job gets its own folder in runs/."
            )


def _translated(config_class: type, error: BaseException) -> UserError:
    """Hydra's and OmegaConf's errors in our words, without their hints."""
    from omegaconf.errors import ValidationError

    causes = []
    current: BaseException | None = error
    while current is not None and current not in causes:
        causes.append(current)
        current = current.__cause__ or current.__context__
    for cause in causes:
        missing = getattr(cause, "missing_cfg_file", None)
        if missing:
            group, _, name = str(missing).rpartition("/")
            if group in config_class.groups:
                return unknown(group, name, config_names(group))
        name = getattr(cause, "full_key", None)
        text = str(cause).splitlines()[0] if str(cause) else ""
        if name and isinstance(cause, ValidationError):
            return UserError(f"{name}: {text.rstrip('.')}. --help says what each key takes.")
        if name and "not in" in text:
            group = str(name).split(".")[0]
            part = getattr(cause, "parent_node", None)
            options = [f"{group}.{option}" for option in part or () if option != "_target_"] if str(name).count(".") == 1 else []
            return _unknown_key(str(name), options)
    text = " ".join(line.strip() for line in str(error).splitlines() if line and not re.match(r"To append|Set the env|See https", line))
    return UserError(f"The settings cannot be read: {text.rstrip('.')}. Write key=value, and quote lists: 'views=[front,wrist]'.")


def _unknown_key(name: str, known: Iterable[str]) -> UserError:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"There is no key '{name}'. {hint}--help lists the keys.")


def help_page(config_class: type) -> str:
    """What --help prints."""
    lines = [f"python {config_class.program} key=value ...", "", (config_class.__doc__ or "").strip(), ""]
    fields = [item for item in dataclasses.fields(config_class) if item.name != "names"]
    for title, first in (("What you need first:", True), ("All other keys:", False)):
        lines.append(title)
        for item in fields:
            if item.metadata["first"] == first:
                lines.append(f"  {item.name + '=' + _shown(config_class, item):28} {item.metadata['help']}")
        if first:
            lines.append(f"  {'budget=' + config_class.groups['budget']:28} how much of everything: {', '.join(config_names('budget'))}")
        lines.append("")
    lines.append("Choices:")
    for group in config_class.groups:
        lines.append(f"  {group + '=':10} {', '.join(config_names(group))}; its keys, as in {group}.KEY=VALUE, stand in configs/{group}/")
    lines[-1] = f"  budget=    {', '.join(config_names('budget'))}"
    lines += ["", "Examples:", *(f"  {example}" for example in config_class.examples), ""]
    lines.append(
        "The same command again resumes a run. -m runs every combination of comma-separated values. ROBO_DEBUG=1 shows tracebacks."
    )
    return "\n".join(lines)


def _shown(config_class: type, item: dataclasses.Field) -> str:
    if item.name in config_class.groups:
        return config_class.groups[item.name]
    return yaml.safe_dump(item.default).split("\n")[0]


def _complain(text: str) -> None:
    print(text, file=sys.stderr)
    if os.environ.get("ROBO_DEBUG") == "1":
        traceback.print_exc()
