"""The front door of every command: composes its settings from the command line; every mistake is one paragraph with exit code 2.

Hydra composes ``key=value`` words with the YAML files under configs/; nothing behind this module knows Hydra.
"""

import copy
import dataclasses
import difflib
import faulthandler
import inspect
import io
import itertools
import math
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import yaml

from robo_repr.core.config import CONFIGS, KINDS, check_kind, config_names, default_of, defaults, folder_of, load_part, shortly
from robo_repr.core.errors import UserError, unknown

CHECKED_JOBS = 500  # a sweep's jobs are checked before the first one starts, up to this many
OF_JOB = "raised by a job"
MOST_JOBS = 10_000  # Hydra keeps a list of all jobs, which a range with too many zeros would make as large as the memory
LAUNCHERS = {  # how the jobs of a sweep are started, and which package does it
    "basic": "hydra-core",
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}


class Grid(Protocol):
    """Many runs that one word, ``benchmark=NAME``, asks for."""

    def run(self) -> int:
        """Runs what is asked for, one after the other; returns the exit code."""
        ...

    def sweep(self, launch: Callable[[Callable[[int], None], list[int]], int]) -> int:
        """The same with ``launch(job, numbers)``, which calls the job for each number, here or in other processes."""
        ...

    def listing(self) -> str:
        """What would run."""
        ...


def main(config_class: type, run: Callable[[Any, list[str]], int], grid: Callable[[list[str]], Grid] | None = None) -> None:
    """Runs a command: composes its configuration from the command line, calls ``run(config, overrides)`` and exits with its code.

    With ``-m`` (Hydra's multirun) every combination runs, in turn or as ``launcher=`` says. All of them are checked before the first one
    starts. Words with ``benchmark=NAME`` go to ``grid(words)``; with ``-m`` its cells are the jobs.
    """
    # OpenMP threads that spin while they wait take a core from the renderer; read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of Hydra's own exit
    if sys.stderr is sys.__stderr__:
        faulthandler.enable()  # a crash inside a library, such as a graphics driver, shall at least say where
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without a letter shall not end a run
    try:
        flags, overrides = _split(sys.argv[1:])
        if "--help" in flags:
            _say(help_page(config_class))
            sys.exit(0)
        if grid is not None and any(override.key_or_group == "benchmark" for override in _parse(overrides)):
            sys.exit(_run_grid(grid, flags, overrides))
        if "--multirun" in flags:
            sys.exit(_sweep(config_class, run, overrides))
        config, overrides = compose(config_class, overrides)
        if "--cfg" in flags:
            _say(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False).rstrip())
            sys.exit(0)
        sys.exit(run(config, overrides))
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        if os.environ.get("ROBO_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads it, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        if override.key_or_group.startswith(("hydra.", "hydra/")) or override.key_or_group == "launcher":
            raise UserError(f"{override.input_line} sets up a sweep, but there is none. Add -m to start one, or leave it out.")
    words = [override.input_line for override in parsed]
    _check_overrides(config_class, parsed)
    ConfigStore.instance().store(name=config_class.command, node=_schema(config_class))
    with _hydra_errors(), hydra.initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        node = hydra.compose(config_class.command, _for_hydra(config_class, words))
    return _to_config(config_class, node, parsed), words


def words_and_values(overrides: list[str], alone: Iterable[str] = ()) -> dict[str, tuple[str, Any]]:
    """For each key the word that counts, the last one, and its value in Python's own types.

    Args:
        alone: keys that no list helps, for the message.

    Raises:
        UserError: a word cannot be read, or gives several values without brackets.
    """
    found = {}
    for override in _parse(overrides):
        name = override.key_or_group
        if override.is_sweep_override():
            instead = "Start one command for each, one after the other." if name in alone else f"Write them as a list: '{name}=[...]'."
            raise UserError(f"{override.input_line} gives several values. {instead}")
        found[name] = override.input_line, override.value()
    return found


def takes_one_value(config_class: Any, name: str) -> bool:
    """Whether a list is no value of this key."""
    return _kind(config_class, name) is not None


def _run_grid(grid: Callable[[list[str]], Grid], flags: set[str], overrides: list[str]) -> int:
    from omegaconf import OmegaConf

    if "--multirun" in flags:
        words, for_hydra = _split_sweep(_parse(overrides))
        cells = grid(words)
        node = OmegaConf.merge(_hydra_schema([]), {"cell": 0})

        def launch(job: Callable[[int], None], numbers: list[int]) -> int:
            return _multirun("grid", node, lambda cfg: job(cfg.cell), [*for_hydra, f"cell={','.join(map(str, numbers))}"])

        if "--cfg" not in flags:
            return cells.sweep(launch)
    else:
        cells = grid(overrides)
    if "--cfg" in flags:
        _say(cells.listing())
        return 0
    return cells.run()


def _sweep(config_class: type, run: Callable[[Any, list[str]], int], overrides: list[str]) -> int:
    from hydra.core.hydra_config import HydraConfig

    parsed = _parse(overrides)
    words, for_hydra = _split_sweep(parsed)
    if any(override.key_or_group == "run_dir" for override in parsed):
        raise UserError("run_dir= names one folder and cannot be combined with -m. Leave it out: every job gets its own folder in runs/.")
    _check_jobs(config_class, _parse(words))

    def job(node: Any) -> None:
        words = _from_hydra(config_class, HydraConfig.get().overrides.task)
        print(f"\njob {HydraConfig.get().job.num}: {' '.join(words)}", flush=True)
        code = run(_to_config(config_class, node, _parse(words)), words)
        if code:
            raise SystemExit(code)  # an interrupted job ends the sweep

    return _multirun(config_class.command, _schema(config_class), job, [*for_hydra, *_for_hydra(config_class, words)])


def _split_sweep(parsed: list[Any]) -> tuple[list[str], list[str]]:
    """(the words of the jobs, the words that tell Hydra how to start them)."""
    words, for_hydra = [], []
    for override in parsed:
        name = override.key_or_group
        if name == "launcher":
            for_hydra.append(f"hydra/launcher={_launcher(str(override.value()))}")
        else:
            (for_hydra if name.startswith(("hydra.", "hydra/")) else words).append(override.input_line)
    return words, for_hydra


def _launcher(name: str) -> str:
    """The same name, if it can be used here."""
    if name not in LAUNCHERS:
        raise unknown("launcher", name, LAUNCHERS)
    try:
        version(LAUNCHERS[name])
    except PackageNotFoundError:
        raise UserError(
            f"launcher={name} needs the package {LAUNCHERS[name]}, which is not installed. Install it with pip, or use launcher=joblib for "
            "several processes on this machine."
        ) from None
    return name


def _multirun(name: str, node: Any, job: Callable[[Any], None], words: list[str]) -> int:
    """Runs Hydra's sweep over these words; `job` gets what each combination composes to. Returns the exit code."""
    import hydra
    from hydra.core.config_store import ConfigStore

    def marked(composed: Any) -> None:
        if multiprocessing.get_start_method(allow_none=True) == "loky":  # joblib's, which processes that a job starts do not know
            multiprocessing.set_start_method("spawn", force=True)
        try:
            job(composed)
        except OSError as error:
            error.add_note(OF_JOB)  # a note outlives the way back from another process
            raise

    ConfigStore.instance().store(name=name, node=node)
    before, sys.argv = sys.argv, [sys.argv[0], "-m", *words]
    try:
        with _hydra_errors():
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(marked)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except OSError as error:
        if OF_JOB in getattr(error, "__notes__", ()):
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
    folders: dict[str, str] = {}
    for job in itertools.islice(itertools.product(*choices), CHECKED_JOBS):
        config, words = compose(config_class, list(job))
        folder = config.folder(words)
        if folder in folders:
            raise UserError(
                f"Two jobs of this sweep would write the same folder, {folder}: '{folders[folder]}' and '{' '.join(words)}'. Name the "
                f"difference, for example '{config_class.apart}'."
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
    if not values:
        raise UserError(f"{override.input_line} gives no values, so no job would run. Write them out, such as seed=0,1,2.")
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
            group = next((file.relative_to(CONFIGS).parts[0] for file in CONFIGS.rglob("*.yaml") if file.stem == text), None)
            example = f"{group}={text}" if group else "steps=10000"
            raise UserError(f"'{text}' is not understood. Settings are written key=value, such as {example}; --help lists the keys.")
        if not value.strip():
            raise UserError(f"'{text}' gives no value. Write {name}=VALUE, or leave {name} out for its default.")
        try:
            override = parser.parse_override(text)
        except (HydraException, ValueError, RecursionError) as error:  # the latter two: endless digits and brackets
            raise UserError(
                f"'{shortly(text)}' cannot be read. Quote a value that holds spaces, commas, brackets, quotes or '=' twice, once for the "
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


def _check_overrides(config_class: Any, parsed: list[Any]) -> None:
    """Refuses what Hydra would refuse in its own words: parts and keys that do not exist, and values of another type."""
    from omegaconf import OmegaConf, ValidationError
    from omegaconf.errors import OmegaConfBaseException

    known = defaults(config_class, _names(config_class, parsed))
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
        found: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)  # missing: ???
    ours = {theirs: name for name, theirs in _renamed(config_class).items()}
    values = {str(ours.get(name, name)): value for name, value in found.items()}
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


def _for_hydra(config_class: Any, words: Iterable[str]) -> list[str]:
    """The same words as Hydra must read them."""
    renamed = _renamed(config_class)
    pairs = (word.partition("=") for word in words)
    return [f"{renamed.get(name, name)}{equals}{value}" for name, equals, value in pairs]


def _from_hydra(config_class: Any, words: Iterable[str]) -> list[str]:
    """What `_for_hydra` was given."""
    renamed = {theirs: ours for ours, theirs in _renamed(config_class).items()}
    pairs = (word.partition("=") for word in words)
    return [f"{renamed.get(name, name)}{equals}{value}" for name, equals, value in pairs]


def _renamed(config_class: Any) -> dict[str, str]:
    """Our name -> Hydra's: a budget is named by its command too, and a plain key must not be called like a folder of parts."""
    folders = {folder.name for folder in CONFIGS.iterdir()}
    plain = [item.name for item in dataclasses.fields(config_class) if item.name not in config_class.groups]
    return {"budget": folder_of(config_class, "budget"), **{name: f"{name}_" for name in plain if name in folders}}


def _not_usable(what: str, error: Exception) -> UserError:
    text = (str(error).splitlines() or [""])[0].rstrip(".")
    return UserError(
        f"{what} cannot be used: {text}. Write key=value; ${{other}} stands for the value of another key, and --help lists the keys."
    )


def _schema(config_class: Any) -> Any:
    """What Hydra composes: the keys with their types, and the groups' defaults."""
    from omegaconf import OmegaConf

    schema = OmegaConf.structured(config_class)
    OmegaConf.set_struct(schema, False)
    del schema["names"]
    for name, theirs in _renamed(config_class).items():
        if name in schema:
            schema[theirs] = schema.pop(name)
    parts = [{group: name} for group, name in config_class.groups.items() if group != "budget"]
    last = [{folder_of(config_class, "budget"): config_class.groups["budget"]}] if "budget" in config_class.groups else []
    return OmegaConf.merge(_hydra_schema([*parts, "_self_", *last]), schema)


def _hydra_schema(parts: list[Any]) -> Any:
    """Settings that keep Hydra from writing files, and which parts are composed by default."""
    from omegaconf import OmegaConf

    hydra_settings = {
        "run": {"dir": "."},
        "sweep": {"dir": "runs/sweeps/${now:%Y-%m-%d_%H-%M-%S}", "subdir": "."},
        "output_subdir": None,
    }
    quiet = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    return OmegaConf.create({"defaults": [*parts, *quiet], "hydra": hydra_settings})


def _unknown_key(name: str, known: Iterable[str]) -> UserError:
    return UserError(f"There is no key '{name}'.{_near(name, known)} --help lists the keys.")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def help_page(config_class: type) -> str:
    """What --help prints."""
    lines = [f"python {config_class.program} key=value ...", "", inspect.getdoc(config_class) or "", ""]
    fields = sorted(
        (item for item in dataclasses.fields(config_class) if item.name != "names"), key=lambda item: item.name not in config_class.groups
    )
    for title, first in (("What you need first:", True), ("All other keys:", False)):
        lines.append(title)
        for item in fields:
            if item.metadata["first"] == first:
                lines.append(f"  {item.name + '=' + _shown(config_class, item):28} {item.metadata['help']}")
        if first and "budget" in config_class.groups:
            budgets = ", ".join(config_names(folder_of(config_class, "budget")))
            lines.append(f"  {'budget=' + config_class.groups['budget']:28} how much of everything: {budgets}")
        lines.append("")
    if config_class.groups:
        lines.append("Choices:")
    for group in config_class.groups:
        keys = "" if group == "budget" else f"; its keys, as in {group}.KEY=VALUE, stand in configs/{group}/"
        lines.append(f"  {group + '=':10} {', '.join(config_names(folder_of(config_class, group)))}{keys}")
    lines += ["", "Examples:", *(f"  {example}" for example in config_class.examples), ""]
    lines.append("The same command again resumes a run. -m runs every combination of comma-separated values in turn,")
    lines.append("with launcher=joblib several at a time (hydra.launcher.n_jobs=2).")
    lines.append("--cfg prints the settings and stops. ROBO_DEBUG=1 shows tracebacks.")
    return "\n".join(lines)


def _shown(config_class: type, item: dataclasses.Field) -> str:
    if item.name in config_class.groups:
        return config_class.groups[item.name]
    return yaml.safe_dump(default_of(item), default_flow_style=True).split("\n")[0].replace(", ", ",")
