"""The main command's settings, and the parts that configs/<group>/*.yaml name.

A part's YAML holds `_target_`, the import path of a class or function, and that one's keyword arguments; the folder is the registry.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from robo_repr.core.errors import UserError, unknown

CONFIGS = Path(__file__).parents[2] / "configs"
INTERNAL = {"internal": True}  # fields that the front door fills in and no user sets


@dataclass
class RLConfig:
    """Settings of `python run_rl.py`. Keys named every count environment steps, summed over all worlds."""

    defaults: list[Any] = field(
        default_factory=lambda: ["_self_", {"encoder": "mvp"}, {"agent": "sac"}, {"budget": "default"}], metadata=INTERNAL
    )
    names: dict[str, str] = field(default_factory=dict, metadata=INTERNAL)  # the groups' choices, such as {"encoder": "mvp"}
    overrides: list[str] = field(default_factory=list, metadata=INTERNAL)  # the command line
    name: str = field(default="", metadata=INTERNAL)  # task-encoder-agent-camera[-tag], the run folder's name

    encoder: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)

    # What the policy sees and does
    task: Any = "reach"
    variant: str | None = None
    weights: str | None = None
    readout: str = "grid4"
    encoder_mode: str = "frozen"
    camera_input: bool = False
    views: Any = None
    camera: Any = "L1"
    eval_camera: Any = "L1"
    appearance: str = "plain"
    quality: str = "fast"
    image_size: int = 84
    privileged: bool = False
    reward: str = "dense"
    horizon: int | None = None
    frame_stack: int = 1

    # How long and how often
    steps: int = 25_000
    num_envs: int = 16
    updates_per_step: float = 0.25
    eval_every: int | None = None
    eval_episodes: int = 100
    log_every: int = 800
    checkpoint_every: int = 5_000
    save_replay: bool = True

    # Where
    seed: int = 0
    device: str = "cpu"
    sim: str = "threads"
    logger: str = "tensorboard"
    tag: str | None = None
    run_dir: str | None = None
    fresh: bool = False

    def validate(self) -> None:
        """Checks every value that needs no simulator and no network to judge; task, views and cameras are checked by envs.

        Raises:
            UserError: the first value out of range, or an unknown name with its nearest ones.
        """
        for key, options in (
            ("readout", ("pooled", "grid4")),
            ("appearance", ("plain", "random")),
            ("quality", ("fast", "full")),
            ("reward", ("dense", "sparse")),
            ("sim", ("threads",)),
            ("logger", ("tensorboard", "none")),
        ):
            if getattr(self, key) not in options:
                raise unknown(key, getattr(self, key), options)
        for key, low, high in (
            ("image_size", 8, 1280),
            ("horizon", 1, 100_000),
            ("frame_stack", 1, 64),
            ("steps", 1, 10**12),
            ("num_envs", 1, 65_536),
            ("updates_per_step", 0, 1_000),
            ("eval_every", 1, 10**12),
            ("eval_episodes", 1, 10**6),
            ("log_every", 1, 10**12),
            ("checkpoint_every", 1, 10**12),
            ("seed", 0, 2**32 - 1),  # numpy's and so SB3's range
        ):
            value = getattr(self, key)
            if value is not None and not low <= value <= high:  # also refuses NaN
                raise UserError(
                    f"{key}={value} is out of range. Expected a number from {low} to {high}; write for example {key}={_example(self, key)}."
                )
        self._validate_encoder_mode()
        if not re.fullmatch(r"cpu|auto|mps|cuda(:\d+)?", self.device):
            raise unknown("device", self.device, ("cpu", "auto", "cuda", "cuda:0", "mps"))
        if self.tag is not None and not re.fullmatch(r"[\w.+-]+", self.tag):
            raise UserError(f"tag={self.tag!r} cannot be part of a folder's name. Use letters, digits and . _ + - only.")

    def _validate_encoder_mode(self) -> None:
        modes = ("frozen", "last:N", "full", "scratch")
        if not re.fullmatch(r"frozen|last:[1-9]\d*|full|scratch", self.encoder_mode):
            raise unknown("encoder_mode", self.encoder_mode, modes)
        if self.encoder_mode != "frozen":
            raise UserError(
                f"encoder_mode={self.encoder_mode} asks to train the encoder, but agent={self.names.get('agent', 'sac')} learns from "
                "cached features of a frozen one. Leave encoder_mode=frozen."
            )

    def as_dict(self) -> dict[str, Any]:
        """Everything that shapes the run as plain values, for config.yaml."""
        kept = {item.name for item in fields(self) if not item.metadata.get("internal")}
        return {"names": dict(self.names)} | {key: value for key, value in asdict(self).items() if key in kept}


def user_keys(config_class: type) -> list[str]:
    """The keys that a command line may set, groups' choices apart."""
    return [item.name for item in fields(config_class) if not item.metadata.get("internal")]


def config_names(group: str) -> list[str]:
    """Names of the parts in configs/<group>/."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def load_part(group: str, name: str) -> dict[str, Any]:
    """A part's settings, read as the commands read them.

    Raises:
        UserError: there is no such part; the nearest names are offered.
    """
    from omegaconf import OmegaConf

    if name not in config_names(group):
        raise unknown(group, name, config_names(group))
    part = OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml"), resolve=True)
    assert isinstance(part, dict), f"configs/{group}/{name}.yaml is no mapping"
    return {str(key): value for key, value in part.items()}


def build(node: dict[str, Any], **extra: Any) -> Any:
    """Imports a part's `_target_` and calls it with the part's other keys and `extra`."""
    settings = dict(node)
    module, _, attribute = settings.pop("_target_").rpartition(".")
    return getattr(import_module(module), attribute)(**settings, **extra)


def resolve_device(device: str) -> str:
    """The torch device to use: auto takes a GPU if there is one. Imports torch.

    Raises:
        UserError: the device is not there.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, number = device.partition(":")
    there = {"cpu": True, "mps": mps, "cuda": cuda and int(number or 0) < torch.cuda.device_count()}
    if not there.get(kind, False):
        usable = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count() if cuda else 0)), *(["mps"] if mps else [])]
        raise UserError(
            f"device={device} is not available: torch sees {', '.join(usable)}. Use one of these, or device=auto to take the best one."
        )
    return device


def run_name(config: Any, apart: Iterable[tuple[str, Any]]) -> str:
    """The run folder's name, task-encoder-agent-camera[-tag].

    Args:
        config: has task, names, camera and tag.
        apart: the settings outside the name that differ from the defaults; they become the tag, together with `config.tag`.
    """
    parts = [_folder_text(config.task), config.names["encoder"], config.names["agent"], _folder_text(config.camera)]
    tag = "-".join(f"{key}_{_folder_text(value)}" for key, value in sorted(apart))
    if len(tag) > 80:
        tag = f"{tag[:60]}-{hashlib.blake2b(tag.encode(), digest_size=4).hexdigest()}"
    return "-".join(part for part in [*parts, tag, config.tag] if part)


def _folder_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(_folder_text(item) for item in value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]+", "_", text)


def _example(config: Any, key: str) -> Any:
    default = type(config)().__dict__[key]
    return default if default is not None else 100
