"""The front door: a dataclass per command, parts as YAML files, and every mistake as one paragraph with exit code 2.

Hydra composes ``key=value`` overrides with the YAML files under configs/; nothing behind this module knows Hydra.
"""

import copy
import dataclasses
import difflib
import hashlib
import itertools
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import yaml

from robo_repr.core.errors import UserError, check_range, unknown

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CHECKED_JOBS = 500  # a sweep's jobs are checked before the first one starts, up to this many
MOST_JOBS = 10_000  # Hydra keeps a list of all jobs, which a range with too many zeros would make as large as the memory
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
# They say where and how long, not what is learned: they never enter the name of a run.
NOT_IN_NAME = ("task", "encoder", "agent", "camera", "seed", "steps", "eval_episodes", "logger", "device", "tag", "run_dir", "fresh")


def config_names(group: str) -> list[str]:
    """Names of the parts in configs/<group>/: the folder is the registry."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def load_part(group: str, name: str) -> dict:
    """The keys of configs/<group>/<name>.yaml; a `UserError` offers the nearest name."""
    if name not in config_names(group):
        raise unknown(group, name, config_names(group))
    from omegaconf import OmegaConf

    # Hydra's own reader: YAML's takes 1e-3 for text.
    return dict(OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml")))  # type: ignore[arg-type]


def build(node: dict, **extra: Any) -> Any:
    """Calls the class that ``_target_`` names with the node's other keys and `extra`.

    Raises:
        UserError: no YAML under configs/ names that class. A run folder from elsewhere shall not choose what is called.
    """
    keywords = {**node, **extra}
    target = keywords.pop("_target_", None)
    if target not in _targets():
        raise UserError(
            f"_target_={target} is no part of this repository: no YAML file under {CONFIGS} names it. Leave _target_ as it was."
        )
    module, name = target.rsplit(".", 1)
    return getattr(import_module(module), name)(**keywords)


def _targets() -> set[str]:
    """The classes that the parts' YAML files name."""
    texts = (path.read_text(encoding="utf-8") for path in CONFIGS.glob("*/*.yaml"))
    return {target for text in texts for target in re.findall(r"^_target_: *(\S+)", text, re.MULTILINE)}


def key(
    default: Any, text: str, *, first: bool = False, low: float | None = None, high: float = 10**12, options: tuple[str, ...] = ()
) -> Any:
    """A key of a command: its default, one line for --help, and what it may be. `first` marks what a newcomer needs."""
    metadata = {"help": text, "first": first, "low": low, "high": high, "options": options}
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
    weights: str | None = key(None, "null = bundled or fetched; random = untrained; a registry name, file, run folder, hub id")
    precision: str = key("float32", "of the encoder: bfloat16 is faster for most large ones", options=("float32", "bfloat16"))
    readout: str = key("grid4", "what the policy gets of the features", options=("grid4", "keypoints", "pooled", "tokens"))
    view_fusion: str = key("concatenate", "how several views become one feature", options=("concatenate", "mean"))
    encoder_mode: str = key("frozen", "which part of the encoder learns", options=("frozen",))
    camera_input: bool = key(False, "gives the policy the cameras' poses")
    views: Any = key(None, "cameras, such as [front,wrist]; null = the task's choice", first=True)
    camera: Any = key("L1", "how far cameras move per training episode, L0 (fixed) to L5", first=True)
    eval_camera: Any = key("L1", "the same for evaluation")
    appearance: str = key("plain", "random: table, floor, light and distractors change per episode", options=("plain", "random"))
    quality: str = key("fast", "full: shadows, reflections and antialiasing, many times slower", options=("fast", "full"))
    image_size: int = key(84, "height and width of the pictures in pixels", low=8)
    privileged: bool = key(False, "adds what only the simulator knows (the ball's place) to the state")
    reward: str = key("dense", "dense or sparse", options=("dense", "sparse"))
    horizon: int | None = key(None, "steps per episode; null = the task's own", low=1)
    frame_stack: int | None = key(None, "pictures per view that the policy sees; null = as many as the encoder takes", low=1)
    steps: int = key(60000, "environment steps to train for", first=True, low=1)
    num_envs: int = key(16, "worlds that are stepped together", low=1)
    updates_per_step: float | None = key(None, "gradient updates per environment step of agent=sac; null = 0.25", low=0, high=1000)
    eval_every: int | None = key(None, "environment steps between evaluations; null = three spread over the training", low=1)
    eval_episodes: int = key(100, "episodes of the final evaluation", low=1, high=10**6)
    log_every: int = key(800, "environment steps between rows of metrics.jsonl", low=1)
    checkpoint_every: int = key(5000, "environment steps between checkpoints", low=1)
    save_replay: bool = key(True, "keeps the replay in checkpoints: without it a resumed run is not exact")
    seed: int = key(0, "root of all random numbers", first=True, low=0, high=2**32 - 1)
    device: str = key("cpu", "cpu, cuda, cuda:N, mps, or auto")
    sim: str = key("threads", "the engine that steps the worlds", options=("threads",))
    logger: str = key("tensorboard", "tensorboard or none; metrics.jsonl is always written", options=("tensorboard", "none"))
    tag: str | None = key(None, "a name for this run's folder instead of the overrides")
    run_dir: str | None = key(None, "the exact folder of the run; default runs/rl/<name>/s<seed>")
    fresh: bool = key(False, "moves an old run of the same name aside instead of resuming it")
    names: dict[str, str] = field(default_factory=dict)  # which file each part came from; filled by `main`

    def validate(self) -> None:
        """Checks ranges and options; raises `UserError`. Names of tasks and cameras are checked where they are known, in envs."""
        if re.fullmatch(r"last:[1-9]\d*|full|scratch", self.encoder_mode):
            raise UserError(
                f"encoder_mode={self.encoder_mode} trains the encoder, but agent={self.names.get('agent', 'sac')} learns from cached "
                "features of a frozen one. Leave encoder_mode=frozen."
            )
        check(self)
        if not re.fullmatch(r"cpu|auto|mps|cuda(:\d+)?", self.device):
            raise UserError(f"device={self.device} is not known. Use cpu, cuda, cuda:N, mps, or auto.")
        if self.tag is not None and not re.fullmatch(r"\w[\w.,+-]*", self.tag):
            raise UserError(f"tag={self.tag!r} cannot be part of a folder's name. Use letters, digits and _ . , + - only.")


def check(config: Any) -> None:
    """Ranges and options as the keys declare them."""
    for item in dataclasses.fields(config):
        value, low, options = getattr(config, item.name), item.metadata.get("low"), item.metadata.get("options")
        if options and value not in options:
            raise unknown(item.name, str(value), options)
        if low is not None and value is not None:
            check_range(item.name, value, low, item.metadata["high"], item.metadata["help"])


def check_kind(path: str, default: Any, value: Any) -> None:
    """Refuses a value of another kind than a part's default, and in a list an element of another kind than the default's first one.

    Where the default is null, anything goes.
    """
    kind = type(default)
    if isinstance(value, str) and "${" in value:  # it stands for another key's value
        return
    if kind is list:
        if not isinstance(value, list):
            raise UserError(f"{path}={_shortly(value)} is not possible: {path} is a list, such as {path}={_shortly(default)}.")
        for index, element in enumerate(value):
            check_kind(f"{path}[{index}]", default[0], element)
    if kind not in KINDS:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole if kind is int else whole or isinstance(value, float) if kind is float else isinstance(value, kind)):
        raise UserError(f"{path}={_shortly(value)} is not possible: {path} is {KINDS[kind]}, such as {path}={default}.")


def _shortly(value: Any) -> str:
    """A value as it is typed, as far as that is short."""
    text = "null" if value is None else str(value).replace(", ", ",") if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def run_name(config: Any, overrides: list[str]) -> str:
    """Folder name of a run: task-encoder-agent-camera, and the tag or else every override that changes something else.

    Spelling does not count: ``readout="pooled"`` and ``readout=pooled`` are one run, and an override that repeats the default is left out.
    There is never an "=" or "/" in the name.
    """
    what = "-".join(_folder_text(part) for part in (config.task, config.names["encoder"], config.names["agent"], config.camera))
    before, now = _defaults(type(config), config.names), dataclasses.asdict(config)
    before["budget"], now["budget"] = config.groups.get("budget"), config.names.get("budget")
    changed = []
    for path in sorted(override.split("=")[0] for override in overrides):
        if path not in NOT_IN_NAME and (value := _inside(now, path)) != _inside(before, path):
            changed.append(f"{path}_{_folder_text(value)}")
    name = "-".join(part for part in (what, config.tag or "-".join(changed)) if part)
    # In bytes, because file systems count those: a name may be 255 long.
    text = name.encode()
    return name if len(text) <= 120 else f"{text[:100].decode(errors='ignore')}-{hashlib.sha256(text).hexdigest()[:8]}"


def _folder_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_folder_text(item) for item in value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.,+-]+", "-", text).strip("-.")


def _inside(settings: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        settings = settings[name]
    return settings


def main(config_class: type, run: Callable[[Any, list[str]], int]) -> None:
    """Runs a command: composes its configuration from the command line, calls ``run(config, overrides)`` and exits with its code.

    With ``-m`` (Hydra's multirun) every combination runs in turn. All of them are checked before the first one starts.
    """
    # OpenMP threads that spin while they wait take a core from the renderer; read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of Hydra's own exit
    try:
        flags, overrides = _split(sys.argv[1:])
        if "--help" in flags:
            print(help_page(config_class))
            sys.exit(0)
        if "--multirun" in flags:
            sys.exit(_sweep(config_class, run, overrides))
        config, overrides = compose(config_class, overrides)
        if "--cfg" in flags:
            print(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False), end="")
            sys.exit(0)
        sys.exit(run(config, overrides))
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        if os.environ.get("ROBO_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def compose(config_class: type, overrides: list[str]) -> tuple[Any, list[str]]:
    """The checked configuration that ``key=value`` words mean, and the words that count: the last one of each key.

    Raises:
        UserError: any mistake in them.
    """
    import hydra
    from hydra.core.config_store import ConfigStore

    parsed = _parse(overrides)
    for override in parsed:
        if override.is_sweep_override():
            name, value = override.input_line.split("=", 1)
            as_list = f" Write {name}=[{value}] for a list, or" if _kind(config_class, name) is None else " Write one, or"
            raise UserError(f"{override.input_line} gives several values.{as_list} add -m to run once for each value.")
        if override.key_or_group.startswith(("hydra.", "hydra/")):
            raise UserError(f"{override.input_line} sets up a sweep, but there is none. Add -m to start one, or leave it out.")
    words = [override.input_line for override in parsed]
    _check_overrides(config_class, parsed)
    ConfigStore.instance().store(name=config_class.command, node=_schema(config_class))
    with _hydra_errors(), hydra.initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        node = hydra.compose(config_class.command, words)
    return _to_config(config_class, node, parsed), words


def _sweep(config_class: type, run: Callable[[Any, list[str]], int], overrides: list[str]) -> int:
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig

    parsed = _parse(overrides)
    if any(override.key_or_group == "run_dir" for override in parsed):
        raise UserError("run_dir= names one folder and cannot be combined with -m. Leave it out: every job gets its own folder in runs/.")
    _check_jobs(config_class, parsed)

    started = False

    def job(node: Any) -> None:
        nonlocal started
        started = True
        words = list(HydraConfig.get().overrides.task)
        print(f"\njob {HydraConfig.get().job.num}: {' '.join(words)}", flush=True)
        code = run(_to_config(config_class, node, _parse(words)), words)
        if code:
            raise SystemExit(code)  # an interrupted job ends the sweep

    ConfigStore.instance().store(name=config_class.command, node=_schema(config_class))
    before, sys.argv = sys.argv, [sys.argv[0], "-m", *(override.input_line for override in parsed)]
    try:
        with _hydra_errors():
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_class.command)(job)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except OSError as error:
        if started:  # a job's own
            raise
        raise UserError(
            f"The sweep's folder cannot be made ({error}). Start the command where you may write, or name a folder: hydra.sweep.dir=FOLDER."
        ) from error
    finally:
        sys.argv = before
    return 0


def _check_jobs(config_class: type, parsed: list[Any]) -> None:
    """Composes every job of a sweep, so that a mistake in the last one does not show after hours."""
    from hydra.core.override_parser.types import Glob

    choices, expandable = [], True
    for override in parsed:
        if override.is_interval_sweep() or isinstance(override.value(), Glob):
            expandable = False  # but by the sweeper itself
        else:
            values = _values(override)
            if not override.key_or_group.startswith(("hydra.", "hydra/")):
                choices.append(values)
    if math.prod(map(len, choices)) > MOST_JOBS:
        raise UserError(f"This sweep has more than {MOST_JOBS} jobs. Give fewer values.")
    if not expandable:
        return
    folders: dict[tuple[str, int], str] = {}
    for job in itertools.islice(itertools.product(*choices), CHECKED_JOBS):
        config, words = compose(config_class, list(job))
        folder = run_name(config, words), config.seed
        if folder in folders:
            raise UserError(
                f"Two jobs of this sweep would write the same folder, {folder[0]}/s{folder[1]}: '{folders[folder]}' and "
                f"'{' '.join(words)}'. Name the difference in the tag, for example 'tag=steps${{steps}}'."
            )
        folders[folder] = " ".join(words)


def _values(override: Any) -> list[str]:
    """The words ``key=value`` of a sweep over one key, at most one more than a sweep may have; of another override its own word."""
    from hydra.errors import HydraException

    if not override.is_sweep_override():
        return [override.input_line]
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except (HydraException, ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"{override.input_line} gives no values ({error}). Write them out, such as seed=0,1,2.") from error
    return [f"{override.key_or_group}={value}" for value in values]


def _split(arguments: list[str]) -> tuple[set[str], list[str]]:
    """(flags by their long names, the other words)."""
    spelled = {"-h": "--help", "--help": "--help", "-m": "--multirun", "--multirun": "--multirun", "--cfg": "--cfg"}
    flags, words = set(), []
    for index, argument in enumerate(arguments):
        if argument in spelled:
            flags.add(spelled[argument])
        elif argument == "job" and index and arguments[index - 1] == "--cfg":
            continue  # Hydra's spelling
        elif argument.startswith("-"):
            raise UserError(
                f"'{argument}' is not understood.{_near(argument, spelled)} Settings are written key=value without dashes; --help lists "
                "the keys, --cfg prints the settings, -m runs a sweep."
            )
        else:
            words.append(argument)
    return flags, words


def _parse(overrides: list[str]) -> list[Any]:
    """Hydra's Override objects, the last one of each key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed = OverridesParser.create(), {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{text!r} has bytes that are no UTF-8, which the run's files could not hold. Rename what it stands for.")
        if text.startswith(("+", "~")):
            raise UserError(f"'{text}' adds or removes a key. Settings are written key=value, with the keys that --help lists.")
        if not equals or not name.strip():
            group = next((folder.name for folder in CONFIGS.iterdir() if text in config_names(folder.name)), None)
            example = f"{group}={text}" if group else "steps=10000"
            raise UserError(f"'{text}' is not understood. Settings are written key=value, such as {example}; --help lists the keys.")
        if not value.strip():
            raise UserError(f"'{text}' gives no value. Write {name}=VALUE, or leave {name} out for its default.")
        try:
            override = parser.parse_override(text)
        except (HydraException, ValueError, RecursionError) as error:  # the latter two: endless digits and brackets
            raise UserError(
                f"'{_shortly(text)}' cannot be read. Quote a value that holds spaces, commas, brackets, quotes or '=' twice, once for the "
                f"shell and once for the command: '{name}=\"some value\"'; lists are written '{name}=[a,b]'."
            ) from error
        # Hydra refuses a group that is named twice; here the later one counts, so that make run ARGS="encoder=random" works.
        parsed.pop(override.key_or_group, None)
        parsed[override.key_or_group] = override
    return list(parsed.values())


def _names(config_class: Any, parsed: list[Any]) -> dict[str, str]:
    """The choice of each group."""
    names = dict(config_class.groups)
    for override in parsed:
        if override.key_or_group in names:
            names[override.key_or_group] = str(override.value())
    return names


def _defaults(config_class: Any, names: dict[str, str]) -> dict[str, Any]:
    """The settings that hold when a command line only chooses parts."""
    settings = {item.name: item.default for item in dataclasses.fields(config_class) if item.default is not dataclasses.MISSING}
    for group in config_class.groups:
        part = load_part(group, names[group])
        settings |= part if group == "budget" else {group: part}
    return settings


def _check_overrides(config_class: Any, parsed: list[Any]) -> None:
    """Refuses what Hydra would refuse in its own words: parts and keys that do not exist, and values of another type."""
    from omegaconf import OmegaConf, ValidationError
    from omegaconf.errors import OmegaConfBaseException

    known = _defaults(config_class, _names(config_class, parsed))
    typed = OmegaConf.merge(OmegaConf.structured(config_class), known)
    for override in parsed:
        path, value = override.key_or_group, override.value()
        if path in config_class.groups:
            continue
        settings: Any = known
        for depth, name in enumerate(path.split(".")):
            above = ".".join(path.split(".")[:depth])
            if not isinstance(settings, dict):
                raise UserError(f"{path}: {above} is one value and has no key '{name}'. Write {above}=VALUE.")
            if name not in settings or name == "_target_":
                raise _unknown_key(path, [f"{above}.{key}".lstrip(".") for key in settings if key != "_target_"])
            settings = settings[name]
        if "." in path:  # the parts' keys; OmegaConf knows the types of the others
            check_kind(path, settings, value)
        try:
            OmegaConf.update(copy.deepcopy(typed), path, value)
        except ValidationError as error:
            hint = "--help says what each key takes."
            if isinstance(value, float) and value.is_integer():
                hint = f"Write {path}={int(value)}."
            elif isinstance(value, list):
                hint = f"To run once for each value, write {path}={','.join(map(str, value))} and add -m."
            kind = _kind(config_class, path) or "of another type"
            raise UserError(f"{override.input_line} is not possible: {path} is {kind}. {hint}") from error
        except OmegaConfBaseException as error:
            raise _not_usable(override.input_line, error) from error


def _kind(config_class: Any, name: str) -> str | None:
    """What a key takes, in words; None for keys that take several types."""
    annotation = next((item.type for item in dataclasses.fields(config_class) if item.name == name), None)
    for kind, words in KINDS.items():
        if annotation in (kind, kind | None):
            return words if annotation == kind else f"{words}, or null"
    return "one name" if name in config_class.groups else None


def _to_config(config_class: Any, node: Any, parsed: list[Any]) -> Any:
    from omegaconf import OmegaConf

    with _hydra_errors():
        values: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)  # missing: ???
    config = config_class(**values, names=_names(config_class, parsed))
    for group in config_class.groups:
        for key, default in load_part(group, config.names[group]).items() if group != "budget" else ():
            check_kind(f"{group}.{key}", default, getattr(config, group)[key])  # again, now that references stand for their values
    config.validate()
    return config


@contextmanager
def _hydra_errors() -> Iterator[None]:
    """Says in our words, without Hydra's hints, what Hydra and OmegaConf refuse."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        name = getattr(error, "full_key", None)
        raise _not_usable(name or "The settings", error) from error


def _not_usable(what: str, error: Exception) -> UserError:
    text = (str(error).splitlines() or [""])[0].rstrip(".")
    return UserError(
        f"{what} cannot be used: {text}. Write key=value; ${{other}} stands for the value of another key, and --help lists the keys."
    )


def _schema(config_class: Any) -> Any:
    """What Hydra composes: the keys with their types, the groups' defaults, and settings that keep Hydra from writing files."""
    from omegaconf import OmegaConf

    schema = OmegaConf.structured(config_class)
    OmegaConf.set_struct(schema, False)
    del schema["names"]
    hydra_settings = {
        "run": {"dir": "."},
        "sweep": {"dir": "runs/sweeps/${now:%Y-%m-%d_%H-%M-%S}", "subdir": "."},
        "output_subdir": None,
    }
    parts = [{group: name} for group, name in config_class.groups.items() if group != "budget"]
    last = [{"budget": config_class.groups["budget"]}] if "budget" in config_class.groups else []
    quiet = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    return OmegaConf.merge(OmegaConf.create({"defaults": [*parts, "_self_", *last, *quiet], "hydra": hydra_settings}), schema)


def _unknown_key(name: str, known: Iterable[str]) -> UserError:
    return UserError(f"There is no key '{name}'.{_near(name, known)} --help lists the keys.")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


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
        keys = "" if group == "budget" else f"; its keys, as in {group}.KEY=VALUE, stand in configs/{group}/"
        lines.append(f"  {group + '=':10} {', '.join(config_names(group))}{keys}")
    lines += ["", "Examples:", *(f"  {example}" for example in config_class.examples), ""]
    lines.append("The same command again resumes a run. -m runs every combination of comma-separated values.")
    lines.append("--cfg prints the settings and stops. ROBO_DEBUG=1 shows tracebacks.")
    return "\n".join(lines)


def _shown(config_class: type, item: dataclasses.Field) -> str:
    if item.name in config_class.groups:
        return config_class.groups[item.name]
    return yaml.safe_dump(item.default).split("\n")[0]
