"""From a run's configuration to its parts: worlds, encoder, agent."""

from dataclasses import dataclass
from typing import Any

import torch

from envs import BatchEnv, make_env
from envs.cameras import parse_camera
from envs.checks import check_views
from robo_repr.core.config import RecordConfig, RLConfig, RunConfig, build
from robo_repr.core.errors import UserError
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
    of_rl: dict[str, Any] = {"reward": cfg.reward} if isinstance(cfg, RLConfig) else {}
    if of_rl and camera == cfg.camera and parse_camera("camera", camera).is_schedule:
        of_rl["camera_steps"] = cfg.steps
    return {"task": task or cfg.task, **settings, **of_rl, **{key: getattr(cfg, key) for key in shared}}


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
    parse_camera("eval_camera", cfg.eval_camera)
    if parse_camera("camera", cfg.camera).is_schedule and not isinstance(cfg, RLConfig):
        raise UserError(
            f"camera={cfg.camera} changes over a training, but demonstrations are recorded before it. Choose one level, such as camera=L3."
        )
    for task in tasks_of(cfg):
        make_env(**env_settings(cfg, cfg.camera, True, task)).close()
        make_env(**env_settings(cfg, cfg.eval_camera, True, task), episode_ids=[0]).close()
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
    return encoder


def choose_device(device: str) -> str:
    """`auto` becomes cuda where there is one; a device that is not there is a `UserError`."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, index = device.partition(":")
    if not there.get(kind) or (index and int(index) >= torch.cuda.device_count()):
        raise UserError(f"device={device} is not there: torch {torch.__version__} does not find it. Use device=cpu or device=auto.")
    return device
