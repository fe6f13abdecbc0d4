"""From a run's configuration to its parts: worlds, encoder, agent."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from envs import BatchEnv, make_env
from envs.cameras import check_level
from envs.checks import check_views
from robo_repr.core.config import ImitationConfig, RecordConfig, RLConfig, RunConfig, build
from robo_repr.core.errors import UserError
from robo_repr.core.run import RunDir
from robo_repr.encoders import build_encoder
from robo_repr.encoders.base import Encoder


@dataclass
class Parts:
    """What a run consists of.

    Attributes:
        env: worlds as the agent takes them; to be closed.
        worlds: the same as a BatchEnv.
        agent: one of agents/.
    """

    encoder: Encoder
    env: Any
    worlds: BatchEnv
    agent: Any


def tasks_of(cfg: RunConfig | RecordConfig) -> list[str]:
    """The tasks that are asked for; names are checked where they are known, in envs.

    Raises:
        UserError: it is no name and no list of different names.
    """
    tasks = [cfg.task] if isinstance(cfg.task, str) else cfg.task
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks) or len(set(tasks)) < len(tasks):
        raise UserError(f"task={cfg.task} is not possible. Name one task (task=reach) or several different ones (task=[reach,push]).")
    return tasks


def env_settings(cfg: RunConfig, camera: Any, pictures: bool, task: Any = None) -> dict:
    """Settings for `make_env` that training and evaluation share, with one of their cameras. Without pictures nothing is drawn.

    Args:
        task: default the run's.
    """
    shared = ("horizon", "seed", "appearance", "quality", "image_size", "privileged", "sim")
    settings = {"camera": camera, "views": check_views(cfg.views) if pictures else [], "frame_stack": cfg.frame_stack or 1}
    reward = {"reward": cfg.reward} if isinstance(cfg, RLConfig) else {}
    return {"task": task or cfg.task, **settings, **reward, **{key: getattr(cfg, key) for key in shared}}


def needs_pictures(encoder: Encoder) -> bool:
    return "images" in encoder.spec.inputs


def build_parts(cfg: RLConfig, device: str, *, training: bool = True) -> Parts:
    """Builds worlds, encoder and agent; settles ``cfg.frame_stack`` where it is left to the encoder.

    Args:
        training: False builds the least that can act, and leaves the global random generators unseeded.

    Raises:
        UserError: settings that do not exist or do not go together.
    """
    from agents.embed import EmbedEnv  # late: stable-baselines3 takes a second that imitation need not wait

    encoder = build_encoder_of(cfg, device)
    worlds = make_env(**env_settings(cfg, cfg.camera, needs_pictures(encoder)), num_envs=cfg.num_envs if training else 1)
    try:
        if training:
            worlds.reset()  # draws for the first time: a machine without OpenGL shall say so before anything is written
        env = EmbedEnv(worlds, encoder, cfg.readout, cfg.camera_input, cfg.view_fusion)
        agent = build(
            cfg.agent,
            env=env,
            steps=cfg.steps if training else 1,
            updates_per_step=cfg.updates_per_step,
            save_replay=cfg.save_replay,
            seed=cfg.seed if training else None,
            device=device,
        )
    except BaseException:
        worlds.close()
        raise
    return Parts(encoder, env, worlds, agent)


def build_encoder_of(cfg: RunConfig, device: str) -> Encoder:
    """The frozen encoder of a run; settles ``cfg.frame_stack`` where it is left to the encoder.

    Raises:
        UserError: settings that do not exist or do not go together: of worlds, cameras, encoder.
    """
    # Names are checked before weights are read.
    for task in tasks_of(cfg):
        make_env(**env_settings(cfg, cfg.camera, True, task)).close()
    check_level("eval_camera", cfg.eval_camera)
    encoder = build_encoder(cfg.encoder, cfg.names["encoder"], cfg.variant, cfg.weights, device, cfg.precision)
    cfg.frame_stack = cfg.frame_stack or encoder.spec.frames
    if encoder.spec.frames not in (1, cfg.frame_stack):
        raise UserError(
            f"frame_stack={cfg.frame_stack} does not fit: encoder={cfg.names['encoder']} takes stacks of exactly {encoder.spec.frames} "
            "pictures. Leave frame_stack out."
        )
    pictures = needs_pictures(encoder)
    if pictures and not check_views(cfg.views):
        raise UserError(
            f"views={cfg.views} shows nothing, but encoder={cfg.names['encoder']} encodes pictures. Name a view, or use encoder=identity."
        )
    if cfg.camera_input and not pictures:
        raise UserError(
            f"camera_input=true gives the policy the poses of its cameras, but with encoder={cfg.names['encoder']} it has none. Leave "
            "camera_input out, or choose an encoder of pictures."
        )
    return encoder


def load_run(folder: Path, device: str = "cpu") -> tuple[Parts, Any, int]:
    """What the latest checkpoint of a run needs to act, be it of run_rl.py or run_imitation.py, the run's settings, and the step.

    Raises:
        UserError: the folder is no run, or has no checkpoint yet.
    """
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        kind, build_parts_of = _kind_of(settings["names"])
        cfg = kind(**settings)
        cfg.validate()
    except (OSError, TypeError, ValueError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder} is no folder of a run of run_rl.py or run_imitation.py ({error}). Give the folder that holds its config.yaml."
        ) from error
    run = RunDir(folder)
    if run.latest_checkpoint() is None:
        raise UserError(f"{folder} has no checkpoint yet. Let the run reach its first one (checkpoint_every={cfg.checkpoint_every} steps).")
    try:
        parts = build_parts_of(cfg, device, training=False)
        step = run.load_checkpoint(parts.agent.load_policy)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:  # torch: of other sizes
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: the run's config.yaml and its checkpoint do not fit together ({type(error).__name__}: {words}). Was it edited? Put "
            "the settings back with which it was trained."
        ) from error
    assert step is not None
    return parts, cfg, step


def _kind_of(names: dict) -> tuple[type[RunConfig], Callable[..., Parts]]:
    """A run's kind of settings, and what builds its parts, from the names of its own."""
    if "policy" not in names:
        return RLConfig, build_parts
    from agents.imitation.train import build_parts as build_imitation

    return ImitationConfig, build_imitation


def choose_device(device: str) -> str:
    """`auto` becomes cuda where there is one; a device that is not there is a `UserError`."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, index = device.partition(":")
    if not there.get(kind) or (index and int(index) >= torch.cuda.device_count()):
        raise UserError(f"device={device} is not there: torch {torch.__version__} does not find it. Use device=cpu or device=auto.")
    return device
