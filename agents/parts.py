"""From a run's configuration to its parts: worlds, encoder, agent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from agents.embed import EmbedEnv
from envs import make_env
from envs.cameras import check_level
from envs.checks import check_views
from robo_repr.core.config import RLConfig, build
from robo_repr.core.errors import UserError
from robo_repr.core.run import RunDir
from robo_repr.encoders import build_encoder
from robo_repr.encoders.base import Encoder


@dataclass
class Parts:
    encoder: Encoder
    env: EmbedEnv
    agent: Any  # one of agents/


def env_settings(cfg: RLConfig, camera: Any, pictures: bool) -> dict:
    """Settings for `make_env` that training and evaluation share, with one of their cameras. Without pictures nothing is drawn."""
    shared = ("task", "horizon", "seed", "appearance", "quality", "image_size", "privileged", "reward", "sim")
    settings = {"camera": camera, "views": check_views(cfg.views) if pictures else [], "frame_stack": cfg.frame_stack or 1}
    return {**settings, **{key: getattr(cfg, key) for key in shared}}


def needs_pictures(encoder: Encoder) -> bool:
    return "images" in encoder.spec.inputs


def build_parts(cfg: RLConfig, device: str, *, training: bool = True) -> Parts:
    """Builds worlds, encoder and agent; settles ``cfg.frame_stack`` where it is left to the encoder.

    Args:
        training: False builds the least that can act, and leaves the global random generators unseeded.

    Raises:
        UserError: settings that do not exist or do not go together.
    """
    # Names are checked before weights are read.
    make_env(**env_settings(cfg, cfg.camera, True)).close()
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
    worlds = make_env(**env_settings(cfg, cfg.camera, pictures), num_envs=cfg.num_envs if training else 1)
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
    return Parts(encoder, env, agent)


def load_run(folder: Path, device: str = "cpu") -> tuple[Parts, RLConfig, int]:
    """What a run's latest checkpoint needs to act, the run's configuration, and the step of the checkpoint.

    Raises:
        UserError: the folder is no run, or has no checkpoint yet.
    """
    try:
        cfg = RLConfig(**yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        cfg.validate()
    except (OSError, TypeError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{folder} is no folder of a run_rl.py run ({error}). Give the folder that holds its config.yaml.") from error
    run = RunDir(folder)
    if run.latest_checkpoint() is None:
        raise UserError(f"{folder} has no checkpoint yet. Let the run reach its first one (checkpoint_every={cfg.checkpoint_every} steps).")
    try:
        parts = build_parts(cfg, device, training=False)
        step = run.load_checkpoint(parts.agent.load_policy)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:  # torch: of other sizes
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: the run's config.yaml and its checkpoint do not fit together ({type(error).__name__}: {words}). Was it edited? Put "
            "the settings back with which it was trained."
        ) from error
    assert step is not None
    return parts, cfg, step


def choose_device(device: str) -> str:
    """`auto` becomes cuda where there is one; a device that is not there is a `UserError`."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, index = device.partition(":")
    if not there.get(kind) or (index and int(index) >= torch.cuda.device_count()):
        raise UserError(f"device={device} is not there: torch {torch.__version__} does not find it. Use device=cpu or device=auto.")
    return device
