"""The settings of each command: a dataclass whose keys are checked, and parts whose keys stand in the YAML files under configs/."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from robo_repr.core.errors import UserError, check_range, unknown
from robo_repr.core.files import home_expanded

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
CAMERA_INPUTS = {False: False, True: True, "pose": True, "rays": "rays"}  # as they may be written, and as they are kept
# They say where and how long, not what is learned: they never enter the name of a run.
NOT_IN_NAME = (
    "task",
    "encoder",
    "agent",
    "policy",
    "camera",
    "seed",
    "steps",
    "eval_episodes",
    "logger",
    "device",
    "tag",
    "run_dir",
    "fresh",
)


def config_names(group: str) -> list[str]:
    """Names of the parts in configs/<group>/: the folder is the registry."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def folder_of(config_class: Any, group: str) -> str:
    """Where a command's parts of a group stand under configs/: each command has budgets and benchmarks of its own."""
    return f"{group}/{config_class.command}" if group in ("budget", "benchmark") else group


def load_part(group: str, name: str) -> dict:
    """The keys of configs/<group>/<name>.yaml; a `UserError` offers the nearest name."""
    if name not in config_names(group):
        raise unknown(group.split("/")[0], name, config_names(group))
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
    default: Any, text: str, *, first: bool = False, low: float | None = None, high: float = 10**12, options: tuple[str | None, ...] = ()
) -> Any:
    """A key of a command: its default, one line for --help, and what it may be. `first` marks what a newcomer needs."""
    metadata = {"help": text, "first": first, "low": low, "high": high, "options": options}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunConfig:
    """The keys of every command whose runs train a policy that sees through an encoder."""

    command: ClassVar[str]
    program: ClassVar[str]
    learner: ClassVar[str]  # the group whose part learns
    groups: ClassVar[dict[str, str]]
    apart: ClassVar[str] = "tag=steps${steps}"  # how jobs of a sweep get folders of their own

    encoder: Any = key({}, "what turns pictures into features", first=True)
    task: Any = key("reach", "what the robot must do; scripts/catalog.py tasks lists them", first=True)
    variant: str | None = key(None, "size of the encoder; null = the encoder's default")
    weights: str | None = key(None, "null = bundled or fetched; random = untrained; a registry name, file, run folder, hub id")
    precision: str = key("float32", "of the encoder: bfloat16 is faster for most large ones", options=("float32", "bfloat16"))
    readout: str = key("grid4", "what the policy gets of the features", options=("grid4", "keypoints", "pooled", "tokens"))
    view_fusion: str = key("concatenate", "how several views become one feature", options=("concatenate", "mean"))
    camera_input: Any = key(False, "tells the policy of its cameras; true: their poses; rays: the ray through each place of the read-out")
    views: Any = key(None, "cameras, such as [front,wrist]; null = the task's choice", first=True)
    camera: Any = key("L1", "how far cameras move per training episode, L0 (fixed) to L5", first=True)
    eval_camera: Any = key("L1", "the same for evaluation")
    appearance: str = key("plain", "random: table, floor, light and distractors change per episode", options=("plain", "random"))
    quality: str = key("fast", "full: shadows, reflections and antialiasing, many times slower", options=("fast", "full"))
    image_size: int = key(84, "height and width of the pictures in pixels", low=8)
    privileged: bool = key(False, "adds what only the simulator knows (where the objects are) to the state")
    horizon: int | None = key(None, "steps per episode; null = the task's own", low=1)
    frame_stack: int | None = key(None, "pictures per view that the policy sees; null = as many as the encoder takes", low=1)
    seed: int = key(0, "root of all random numbers", first=True, low=0, high=2**32 - 1)
    device: str = key("cpu", "cpu, cuda, cuda:N, mps, or auto")
    sim: str = key("threads", "the engine that steps the worlds", options=("threads",))
    logger: str = key("tensorboard", "tensorboard or none; metrics.jsonl is always written", options=("tensorboard", "none"))
    tag: str | None = key(None, "a name for this run's folder instead of the overrides")
    run_dir: str | None = key(None, "the exact folder of the run; default runs/<command>/<name>/s<seed>")
    fresh: bool = key(False, "moves an old run of the same name aside instead of resuming it")
    names: dict[str, str] = field(default_factory=dict)  # which file each part came from; filled by core/cli.py

    def folder(self, overrides: list[str]) -> str:
        """Where the run is, within runs/<command>."""
        return f"{run_name(self, overrides)}/s{self.seed}"

    def validate(self) -> None:
        """Checks ranges and options; raises `UserError`. Names of tasks and cameras are checked where they are known, in envs."""
        check(self)
        check_device_and_tag(self)
        if not isinstance(self.camera_input, bool | int | str) or self.camera_input not in CAMERA_INPUTS:
            raise unknown("camera_input", shortly(self.camera_input), (str(option).lower() for option in CAMERA_INPUTS))
        self.camera_input = CAMERA_INPUTS[self.camera_input]


@dataclass
class RLConfig(RunConfig):
    """Trains a policy that sees through an encoder, films it and says how often it succeeds."""

    command: ClassVar[str] = "rl"
    program: ClassVar[str] = "run_rl.py"
    learner: ClassVar[str] = "agent"
    groups: ClassVar[dict[str, str]] = {"encoder": "mvp", "agent": "sac", "budget": "default"}
    examples: ClassVar[tuple[str, ...]] = (
        "python run_rl.py encoder=mvp task=reach",
        "python run_rl.py encoder=pixels task=reach 'views=[front,wrist]' camera=L3 seed=1",
        "python run_rl.py -m encoder=mvp,random,pixels seed=0,1,2",
    )

    agent: Any = key({}, "what learns", first=True)
    encoder_mode: str = key("frozen", "which part of the encoder learns", options=("frozen",))
    reward: str = key("dense", "dense or sparse", options=("dense", "sparse"))
    steps: int = key(60000, "environment steps to train for", first=True, low=1)
    num_envs: int = key(16, "worlds that are stepped together", low=1)
    updates_per_step: float | None = key(None, "gradient updates per environment step of agent=sac; null = 0.25", low=0, high=1000)
    eval_every: int | None = key(None, "environment steps between evaluations; null = three spread over the training", low=1)
    eval_episodes: int = key(100, "episodes of the final evaluation", low=1, high=10**6)
    log_every: int = key(800, "environment steps between rows of metrics.jsonl", low=1)
    checkpoint_every: int = key(5000, "environment steps between checkpoints", low=1)
    save_replay: bool = key(True, "keeps the replay in checkpoints: without it a resumed run is not exact")

    def validate(self) -> None:
        if re.fullmatch(r"last:[1-9]\d*|full|scratch", self.encoder_mode):
            raise UserError(
                f"encoder_mode={self.encoder_mode} trains the encoder, but agent={self.names.get('agent', 'sac')} learns from cached "
                "features of a frozen one. Leave encoder_mode=frozen."
            )
        super().validate()


@dataclass
class ImitationConfig(RunConfig):
    """Trains a policy on demonstrations, films it and says how often it succeeds; or a whole table of such (benchmark=)."""

    command: ClassVar[str] = "imitation"
    program: ClassVar[str] = "run_imitation.py"
    learner: ClassVar[str] = "policy"
    groups: ClassVar[dict[str, str]] = {"encoder": "mvp", "policy": "bc_r3m", "budget": "default"}
    tables: ClassVar[str] = "runs/benchmarks"  # where benchmark= writes
    examples: ClassVar[tuple[str, ...]] = (
        "python run_imitation.py encoder=mvp task=reach demos=25",
        "python run_imitation.py encoder=r3m variant=resnet18 weights=FILE policy=diffusion task=push demos=50 encoder_mode=last:1",
        "python run_imitation.py benchmark=quick 'encoders=[mvp,pixels,random]'",
    )

    policy: Any = key({}, "what learns, and by which recipe", first=True)
    demos: int = key(25, "demonstrations of each task", first=True, low=1, high=10**6)
    demo_data: str | None = key(None, "a clip store with the demonstrations, such as an imported one; null = recorded by the task's expert")
    demo_noise: float = key(0.3, "deviation of noise on the expert's actions, so that it shows how to come back", low=0, high=10)
    demo_seed: int = key(0, "seed of the expert's episodes; runs with other seeds share them", low=0, high=2**32 - 1)
    encoder_mode: str = key("frozen", "which part of the encoder learns: frozen, last:N (blocks), full, or scratch (full, untrained)")
    finetune_after: float = key(0.25, "share of the training after which the encoder learns too", low=0, high=1)
    encoder_bn: str = key("frozen", "BatchNorm of an encoder that learns: train follows its batches", options=("frozen", "train"))
    encoder_learning_rate: float | None = key(None, "of an encoder that learns; null = the policy's", low=0, high=10)
    augment: str = key(
        "none", "shift: up to 4 pixels; crop: random resized, one per sample and view alike", options=("none", "shift", "crop")
    )
    instruction: str | None = key(
        None, "how a policy is told its task; null = onehot for several", options=(None, "none", "onehot", "language")
    )
    cache: bool = key(True, "keeps a frozen encoder's features on disk, for other seeds, numbers of demonstrations and policies")
    steps: int = key(20000, "gradient updates", first=True, low=1)
    evaluations: int = key(5, "how many, spread evenly over the training", low=1, high=10**4)
    eval_episodes: int = key(50, "episodes of each evaluation and task", low=1, high=10**6)
    eval_starts: str = key("fixed", "new: other episodes in each evaluation, as R3M has it", options=("fixed", "new"))
    score: str = key("last", "which evaluation counts: last, mean_last5, or max", options=("last", "mean_last5", "max"))
    log_every: int = key(500, "updates between rows of metrics.jsonl", low=1)
    checkpoint_every: int = key(5000, "updates between checkpoints", low=1)
    benchmark: str | None = key(None, "a table instead of one run: a name in configs/benchmark/imitation", first=True)
    encoders: Any = key(None, "encoders of the table, such as [mvp,pixels]; null = the benchmark's")
    cell: int | None = key(None, "runs this cell of the table alone", low=0)

    def validate(self) -> None:
        super().validate()
        if not re.fullmatch(r"frozen|last:[1-9]\d{0,3}|full|scratch", self.encoder_mode):
            raise UserError(f"encoder_mode={self.encoder_mode} is not possible. Use frozen, last:N such as last:1, full, or scratch.")
        if self.encoder_mode == "scratch" and self.weights not in (None, "random"):
            raise UserError(
                f"encoder_mode=scratch starts untrained, but weights={self.weights} is given. Use encoder_mode=full with weights."
            )
        for name in ("encoders", "cell"):
            if getattr(self, name) is not None and self.benchmark is None:
                raise UserError(
                    f"{name}={shortly(getattr(self, name))} belongs to a table. Name one, such as benchmark=quick, or leave it out."
                )


@dataclass
class ViewpointConfig:
    """Says how far a camera can move before a policy fails: of a run that is there (run=), of a whole table of encoders and training
    regimes (benchmark=), or, without a policy and in a minute, of an encoder alone (encoder=)."""

    command: ClassVar[str] = "viewpoint"
    program: ClassVar[str] = "run_viewpoint.py"
    apart: ClassVar[str] = "tag=episodes${episodes}"
    groups: ClassVar[dict[str, str]] = {"encoder": "mvp"}
    tables: ClassVar[str] = "runs/viewpoint-benchmarks"
    of_tables: ClassVar[tuple[str, ...]] = ("regime", "regimes", "encoders", "learner", "steps", "demos", "cell")
    of_encoders: ClassVar[tuple[str, ...]] = ("encoder", "variant", "weights", "readout", "task", "views")  # and of tables
    examples: ClassVar[tuple[str, ...]] = (
        "python run_viewpoint.py run=runs/rl/reach-mvp-sac-L1/s0",
        "python run_viewpoint.py run=runs/rl/reach-mvp-sac-L1/s0 'levels=[0,3]' 'presets=[vista:arc]' 'factors=[azimuth]' episodes=50",
        "python run_viewpoint.py benchmark=quick",
        "python run_viewpoint.py benchmark=standard 'encoders=[mvp,pixels]' 'regimes=[fixed,wide,conditioned]' task=push",
        "python run_viewpoint.py encoder=mvp task=reach",
    )

    run: str | None = key(None, "folder of a run of run_rl.py or run_imitation.py, which is evaluated", first=True)
    benchmark: str | None = key(None, "a table instead of one run: a name in configs/benchmark/viewpoint", first=True)
    levels: Any = key([0, 1, 2, 3, 4, 5], "how far cameras are moved: shells of these levels, 0 is the nominal view", first=True)
    episodes: int = key(100, "of each camera setting and task, the same starts in all of them", first=True, low=1, high=10**6)
    presets: Any = key([], "other camera settings, such as [vista:arc,maniwhere,L3:sweep]; scripts/catalog.py cameras draws them")
    factors: Any = key([], "moved alone as far as level 3: of azimuth, elevation, distance, look_at, roll, fov")
    controls: Any = key([], "of together, alone, background, calibration")
    calibration: float = key(2.0, "degrees and centimetres by which controls=[calibration] misleads a policy", low=0, high=90)
    appearance: str | None = key(
        None,
        "random: table, floor, light and distractors change per episode; null = the run's, or plain",
        options=(None, "plain", "random"),
    )
    films: bool = key(True, "films a success and a failure at each level")
    seed: int | None = key(None, "root of the evaluation's random numbers; null = the run's, or 0", low=0, high=2**32 - 1)
    device: str = key("cpu", "cpu, cuda, cuda:N, mps, or auto")
    tag: str | None = key(None, "a name for this evaluation's folder instead of the overrides")
    run_dir: str | None = key(None, "the exact folder that is written; default runs/viewpoint/<name of the run>/s<seed>")
    fresh: bool = key(False, "moves an old evaluation of the same name aside instead of resuming it; policies are kept")
    encoder: Any = key({}, "what turns pictures into features: of a table's cells, or to be judged alone", first=True)
    variant: str | None = key(None, "size of that encoder; null = the encoder's default")
    weights: str | None = key(None, "of that encoder: null = bundled or fetched; random; a registry name, file, run folder, hub id")
    readout: str | None = key(
        None, "what a policy gets of that encoder's features; null = grid4", options=(None, "grid4", "keypoints", "pooled", "tokens")
    )
    task: Any = key(None, "what the robot does, for that encoder; null = reach", first=True)
    views: Any = key(None, "cameras for that encoder, such as [front,wrist]; null = the task's choice")
    regime: str | None = key(None, "of a table's cells: fixed, narrow, wide, several, conditioned, or a camera setting to train at")
    learner: str = key("sac", "of a table's cells: what learns, a name in configs/agent or configs/policy")
    steps: int | None = key(None, "of a table's cells: how long they learn; null = as their command has it", low=1)
    demos: int | None = key(None, "of a table's cells that imitate: demonstrations; null = as run_imitation.py has it", low=1, high=10**6)
    encoders: Any = key(None, "encoders of the table, such as [mvp,pixels]; null = the benchmark's")
    regimes: Any = key(None, "regimes of the table, such as [fixed,wide]; null = the benchmark's")
    cell: int | None = key(None, "runs this cell of the table alone", low=0)
    names: dict[str, str] = field(default_factory=dict)  # as in RunConfig

    def __post_init__(self):
        if self.run is not None:  # however it is spelled, it is the same run
            folder, here = home_expanded(self.run).resolve(), Path.cwd()
            self.run = str(folder.relative_to(here) if folder.is_relative_to(here) else folder)

    def name(self, overrides: list[str]) -> str:
        """Of the evaluation: the run's, or what is seen and through which encoder; then the tag, or overrides that change something."""
        if self.run is not None:
            what, told = _name_and_seed(self.run)[0], ("run",)
        else:
            what, told = "-".join(folder_text(part) for part in (self.task or "reach", self.names["encoder"], "encoder")), ("task", "seed")
        changed = self.tag or "-".join(_changed(self, overrides, (*told, "encoder", "device", "tag", "run_dir", "fresh")))
        return short_name("-".join(part for part in (what, changed) if part))

    def folder(self, overrides: list[str]) -> str:
        """Where the evaluation is, within runs/viewpoint, as far as a sweep's jobs differ in it."""
        seed = f"s{self.seed or 0}" if self.run is None else _name_and_seed(self.run)[1]
        return str(Path(self.name(overrides), seed))

    def validate(self) -> None:
        """Checks ranges and options, and that all keys belong to one use; raises `UserError`. What `levels` and the like may hold is
        checked where it is known, in agents."""
        self.check_values()
        for name in self._given(self.of_tables):
            raise UserError(
                f"{name}={shortly(getattr(self, name))} belongs to a table. Name one, such as benchmark=quick, or leave it out: run=FOLDER "
                "evaluates a run that is there, and encoder=NAME judges an encoder alone."
            )
        for name in self._given(self.of_encoders) if self.run is not None else ():
            value = self.names["encoder"] if name == "encoder" else getattr(self, name)
            raise UserError(
                f"{name}={shortly(value)} is for judging an encoder alone, but run={self.run} has an encoder, task and views of its own. "
                "Leave out one of them."
            )

    def check_values(self) -> None:
        """Ranges and options of the keys, each for itself."""
        check(self)
        check_device_and_tag(self)

    def _given(self, keys: tuple[str, ...]) -> list[str]:
        """Those of the keys that are not at their defaults."""
        standard = defaults(type(self), self.groups)
        return [name for name in keys if getattr(self, name) != standard[name]]


@dataclass
class RecordConfig:
    """Records what cameras see of a policy into a clip store."""

    command: ClassVar[str] = "record_clips"
    program: ClassVar[str] = "scripts/record_clips.py"
    apart: ClassVar[str] = "out=demos${seed}_${image_size}"
    groups: ClassVar[dict[str, str]] = {}
    examples: ClassVar[tuple[str, ...]] = (
        "python scripts/record_clips.py task=reach episodes=50 out=demos",
        "python scripts/record_clips.py 'task=[reach,push]' policy=noisy_expert 'views=[front,left,wrist]' camera=L3 appearance=random",
        "python scripts/record_clips.py policy=runs/rl/reach-mvp-sac-L1/s0 'ground_truth=[depth,segmentation]'",
    )

    task: Any = key(None, "what the robot does, such as [reach,push]; null = the run's, or reach", first=True)
    policy: str = key("expert", "expert, noisy_expert, random, or the folder of a run_rl.py run", first=True)
    episodes: int = key(50, "episodes of each task", first=True, low=1, high=10**6)
    views: Any = key(None, "cameras, such as [front,wrist]; null = the run's, or front and wrist", first=True)
    camera: str = key("L1", "how far cameras move per episode, L0 (fixed) to L5", first=True)
    out: str | None = key(None, "folder of the store (of several tasks: a folder with one each); null = runs/clips/<name>", first=True)
    appearance: str = key("plain", "random: table, floor, light and distractors change per episode", options=("plain", "random"))
    quality: str | None = key(
        None, "fast, or full: shadows, reflections, antialiasing; null = the run's, or fast", options=(None, "fast", "full")
    )
    image_size: int | None = key(None, "height and width of the pictures in pixels; null = the run's, or 84", low=8, high=1280)
    ground_truth: Any = key([], "what only the simulator knows: depth, segmentation, poses, keypoints")
    privileged: bool = key(False, "adds what only the simulator knows (where the objects are) to the state that is recorded")
    noise: float = key(0.3, "of policy=noisy_expert: standard deviation of what is added to its actions", low=0, high=10)
    relabel: bool = key(False, "keeps as actions what the expert would have done, whoever acts (DAgger; with noise, DART)")
    horizon: int | None = key(None, "steps per episode; null = the task's own", low=1)
    seed: int = key(0, "root of all random numbers", low=0, high=2**32 - 1)
    num_envs: int = key(16, "most worlds that are stepped together", low=1)
    workers: int | None = key(None, "processes that draw; null = 2 where there are cores and enough to record", low=1, high=64)
    names: dict[str, str] = field(default_factory=dict)  # as in RLConfig

    def folder(self, overrides: list[str]) -> str:
        """Where the clips go."""
        if self.out:
            return self.out
        run = "/" in self.policy  # which tells the task
        words = [self.task or ("reach" if not run else None), "-".join(Path(self.policy).parts[-2:]), self.camera, self.appearance]
        return f"runs/clips/{'-'.join(folder_text(word) for word in words if word)}-s{self.seed}"

    def validate(self) -> None:
        """Checks ranges and options; raises `UserError`. Names of tasks and cameras are checked where they are known, in envs."""
        check(self)


def check(config: Any) -> None:
    """Ranges and options as the keys declare them."""
    for item in dataclasses.fields(config):
        value, low, options = getattr(config, item.name), item.metadata.get("low"), item.metadata.get("options")
        if options and value not in options:
            raise unknown(item.name, str(value), filter(None, options))
        if low is not None and value is not None:
            check_range(item.name, value, low, item.metadata["high"], item.metadata["help"])


def check_device_and_tag(config: Any) -> None:
    """Whether they have their form; whether there is such a device is known to torch."""
    if not re.fullmatch(r"cpu|auto|mps|cuda(:\d+)?", config.device):
        raise UserError(f"device={config.device} is not known. Use cpu, cuda, cuda:N, mps, or auto.")
    if config.tag is not None and not re.fullmatch(r"\w[\w.,+-]*", config.tag):
        raise UserError(f"tag={config.tag!r} cannot be part of a folder's name. Use letters, digits and _ . , + - only.")


def check_kind(path: str, default: Any, value: Any) -> None:
    """Refuses a value of another kind than a part's default, and in a list an element of another kind than the default's first one.

    Where the default is null, anything goes.
    """
    kind = type(default)
    if isinstance(value, str) and "${" in value:  # it stands for another key's value
        return
    if kind is list:
        if not isinstance(value, list):
            raise UserError(f"{path}={shortly(value)} is not possible: {path} is a list, such as {path}={shortly(default)}.")
        for index, element in enumerate(value):
            check_kind(f"{path}[{index}]", default[0], element)
    if kind not in KINDS:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole if kind is int else whole or isinstance(value, float) if kind is float else isinstance(value, kind)):
        raise UserError(f"{path}={shortly(value)} is not possible: {path} is {KINDS[kind]}, such as {path}={default}.")


def shortly(value: Any) -> str:
    """A value as it is typed, as far as that is short."""
    text = "null" if value is None else f"[{','.join(map(shortly, value))}]" if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def run_name(config: Any, overrides: list[str]) -> str:
    """Folder name of a run: task-encoder-learner-camera, and the tag or else every override that changes something else.

    Spelling does not count: ``readout="pooled"`` and ``readout=pooled`` are one run, and an override that repeats the default is left out.
    There is never an "=" or "/" in the name.
    """
    what = "-".join(folder_text(part) for part in (config.task, config.names["encoder"], config.names[config.learner], config.camera))
    changed = config.tag or "-".join(_changed(config, overrides, NOT_IN_NAME))
    return short_name("-".join(part for part in (what, changed) if part))


def _changed(config: Any, overrides: list[str], told: tuple[str, ...]) -> list[str]:
    """The overrides that change something, as parts of a folder's name, without the keys that are `told` otherwise."""
    before, now = defaults(type(config), config.names), dataclasses.asdict(config)
    before["budget"], now["budget"] = config.groups.get("budget"), config.names.get("budget")
    paths = sorted(override.split("=")[0] for override in overrides)
    values = {path: _inside(now, path) for path in paths if path not in told}
    return [f"{path}_{folder_text(value)}" for path, value in values.items() if value != _inside(before, path)]


def _name_and_seed(run: str) -> tuple[str, str]:
    """("reach-mvp-sac-L1", "s0") of runs/rl/reach-mvp-sac-L1/s0; a folder that is called otherwise has no seed in its name."""
    path = Path(run).resolve()
    return (path.parent.name, path.name) if re.fullmatch(r"s\d+", path.name) else (path.name, "")


def short_name(name: str) -> str:
    """A folder's name, ended by a hash where it is too long for file systems, which count bytes: 255 are allowed."""
    text = name.encode()
    return name if len(text) <= 120 else f"{text[:100].decode(errors='ignore')}-{hashlib.sha256(text).hexdigest()[:8]}"


def folder_text(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, list | tuple):
        return ",".join(folder_text(item) for item in value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.,+-]+", "-", text).strip("-.")


def _inside(settings: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        settings = settings[name]
    return settings


def defaults(config_class: Any, names: dict[str, str]) -> dict[str, Any]:
    """The settings that hold when a command line only chooses parts."""
    keys = [item for item in dataclasses.fields(config_class) if item.metadata]  # all but `names`
    settings = {item.name: default_of(item) for item in keys}
    for group in config_class.groups:
        part = load_part(folder_of(config_class, group), names[group])
        settings |= part if group == "budget" else {group: part}
    return settings


def default_of(item: dataclasses.Field) -> Any:
    """The default of a key."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; an empty part or a list is a value."""
    if not isinstance(settings, dict) or not settings:
        return {prefix[:-1]: settings}
    return {key: value for name, part in settings.items() for key, value in flat(part, f"{prefix}{name}.").items()}
