"""N worlds of a task as one gymnasium vector environment with pictures, moving cameras and exact snapshots."""

import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.appearance import sample_look
from envs.cameras import FACTORS, CameraSetting, Drawn, Occasion, neutral, nominal_cameras, to_world
from envs.checks import Readings, check_expert, check_memory, check_outputs, check_views, check_whole, compile_task
from envs.sim import ThreadsSim
from envs.tasks.base import ArmTask
from envs.validity import Fault, ViewFilter
from robo_repr.core.errors import Failure, UserError, check_range
from robo_repr.core.seeding import rng

REWARDS = ("dense", "sparse")
MAX_SIZE = 1280  # pixels of a picture's edge
REWARD_ROUNDING = 1e-6  # how far beyond a task's `reward_range` a reward may be
REDRAWS = 10  # of a view that `valid_views` rejects
HOLD = 10  # steps in a row that the success condition must hold, up to an episode's last step (MVP's rule)


class BatchEnv(VectorEnv):
    """N worlds of one task. Build it with `make_env`, which checks the settings.

    Observations (torch, valid until the next step):
        images: (N, V, 3, H, W) uint8; (N, V, F, 3, H, W), oldest first, when frame_stack F > 1.
        state: (N, S) float32, what the robot knows of itself.
        camera: (N, V, 8) float32 world pose of each camera now: position 3, quaternion wxyz 4, vertical field of view in degrees 1.

    Actions are (N, A) in [-1, 1], numpy or torch. Episodes end by time only (truncation). A world whose episode ended is reset in the same
    step: the observation returned is the next episode's first one, and ``info["final_obs"]`` holds the last one of the old. Without
    `autoreset`, which `GymEnv` uses, it stays at its last observation, and `reset` begins the next one.

    Info of a step, all of the step just taken and (N,): ``success`` (the condition held through the last 10 steps), ``success_end`` (holds
    now), ``success_ever``, ``episode_return``, ``episode_length``, ``bad_physics`` (MuJoCo warned of the world or gave it up; see below),
    ``_final_obs`` (rows of ``final_obs`` that are valid; the key is there when any is).

    A world of which MuJoCo warns ends its episode in that step as a failure: reward 0, no ``success`` and no ``success_end``, and its last
    observation is of the state before the step, for what came of it is no physics. `warnings` counts such episodes by the warning's name
    (`envs.sim.WARNINGS`, or ERROR where the engine gave up) since the environment was made; a snapshot carries the counts on.

    `sim` is the engine that steps the worlds, to read from; what is written to it the episodes do not know.

    Every episode has an id. Its start state, cameras and appearance are functions of (seed, id) alone, whatever the policy, the cameras or
    the other worlds did before.

    Raises (reset, step):
        UserError: the task reads a sensor that its model lacks, gives results of another shape than it should, or starts with the tool
            out of the arm's reach; no such seed is possible.
        Failure: a start state that MuJoCo warns of; a sensor, observation or reward of the task that is not finite; a reward outside the
            task's ``reward_range``; pictures that cannot be drawn. It names the step (calls of `step` are counted as `warnings` are), the
            world, its episode and the term. The environment should be closed then.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_fps": 20, "render_modes": []}

    def __init__(
        self,
        task_class: type[ArmTask],
        *,
        num_envs: int,
        views: list[str],
        camera: CameraSetting,
        camera_steps: int | None,
        valid_views: bool,
        horizon: int,
        seed: int,
        appearance: str,
        quality: str,
        image_size: int,
        privileged: bool,
        reward: str,
        frame_stack: int,
        device: str,
        episode_ids: list[int] | None,
        render_threads: int | None,
        autoreset: bool,
    ):
        self._model = compile_task(task_class)
        self._cameras = nominal_cameras(self._model, views)
        camera.bind(self._model, task_class.name, views)
        check_memory(self._model, num_envs, len(views), frame_stack, image_size)
        self.sim = ThreadsSim(self._model, num_envs, quality, render_threads)
        self.task = task_class(self._model, num_envs)
        self.num_envs, self.views, self.horizon, self.seed, self.device = num_envs, views, horizon, seed, torch.device(device)
        self.camera, self.appearance, self.image_size, self.privileged = camera.text, appearance, image_size, privileged
        self._setting, self._camera_steps = camera, camera_steps
        self._filter = ViewFilter(self._model, self.task) if valid_views else None
        self.view_faults = np.zeros(len(Fault), dtype=np.int64)  # how many views that were drawn had each
        self.frame_stack, self.reward, self._evaluation_ids = frame_stack, reward, episode_ids
        self._autoreset = autoreset
        if not autoreset:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.seconds = {"reset": 0.0, "physics": 0.0, "render": 0.0}
        self.warnings: dict[str, int] = {}

        self._calls = 0  # of step, for messages
        self._counts = np.zeros(num_envs, dtype=np.int64)  # episodes begun in each world
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._held = np.zeros(num_envs, dtype=np.int64)  # steps in a row that the condition has held
        self._ever = np.zeros(num_envs, dtype=bool)
        self._returns = np.zeros(num_envs, dtype=np.float64)
        still = [Drawn(neutral(), camera.pose[None]) for camera in self._cameras]
        self._views = [still] * num_envs  # of each world's episode, one for each camera
        self._attempts = np.zeros((num_envs, len(views)), dtype=np.int64)  # how often views were drawn before these
        self._poses = np.zeros((num_envs, len(views), 8))
        self._looks = [sample_look("plain", rng(0, "none"))] * num_envs
        self._frames = torch.zeros((num_envs, len(views), frame_stack, 3, image_size, image_size), dtype=torch.uint8)
        self._begun = False

        state_size = task_class.state_size(privileged)
        shape = (len(views), 3, image_size, image_size) if frame_stack == 1 else (len(views), frame_stack, 3, image_size, image_size)
        self.single_observation_space = gymnasium.spaces.Dict(
            {
                "images": gymnasium.spaces.Box(0, 255, shape, np.uint8),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (state_size,), np.float32),
                "camera": gymnasium.spaces.Box(-np.inf, np.inf, (len(views), 8), np.float32),
            }
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (task_class.action_dim(),), np.float32)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @cached_property
    def observation_space(self) -> gymnasium.Space:
        """The space of the batch; made when it is asked for, because its bounds fill four times the memory of the pictures."""
        return batch_space(self.single_observation_space, self.num_envs)

    @property
    def episodes(self) -> list[tuple]:
        """The current episode's id of each world: ("training", world, count) or ("evaluation", id)."""
        return [self._episode(world) for world in range(self.num_envs)]

    @property
    def language(self) -> list[str]:
        """What each world is asked to do: one of its task's instructions, a function of the seed and the episode alone."""
        options = self.task.instructions
        return [options[rng(self.seed, "instruction", *episode[1:]).integers(len(options))] for episode in self.episodes]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Begins an episode in every world. With a seed the episodes are counted from the start again; without, the next ones begin."""
        if seed is not None:
            check_whole("seed", seed, 0)
            self.seed = int(seed)
        first, everyone = not self._begun, np.arange(self.num_envs)
        if seed is not None or first:
            self._counts[:] = 0
        else:
            self._counts += 1
        self._start(everyone)
        if first:
            check_outputs(self.task, self._readings, self.privileged)
        self._begun = True
        self._draw(everyone, fresh=True)
        return self.observation(), {}

    def view_factors(self) -> dict[str, np.ndarray]:
        """How each world's cameras deviate from their nominal poses now: name -> (N, V), look_at (N, V, 3); see `envs.cameras.Factors`.

        Raises:
            RuntimeError: no episode has begun.
        """
        self._require_begun("view_factors")

        def now(view: Drawn, world: int, name: str) -> np.ndarray:
            return view.factors[name][min(self._steps[world], len(view.poses) - 1)]

        return {name: np.array([[now(view, world, name) for view in views] for world, views in enumerate(self._views)]) for name in FACTORS}

    @property
    def view_counts(self) -> dict[str, int]:
        """How many views ``valid_views`` drew since the environment was made, and how many of them it rejected; see `view_faults`."""
        return {"drawn": int(self.view_faults.sum()), "rejected": int(self.view_faults[1:].sum())}

    def view_poses(self) -> list[dict[str, np.ndarray]]:
        """The views of each world's episode, as a manifest holds them: camera -> poses (T, 8) in the frame of its parent body."""
        return [{camera.name: view.poses for camera, view in zip(self._cameras, views, strict=True)} for views in self._views]

    def stagger(self) -> None:
        """Spreads the worlds over the horizon, so that later resets come one by one: world i is taken to be at step i * horizon / N.
        Where cameras move, they are then seen from there."""
        self._steps = np.arange(self.num_envs) * self.horizon // self.num_envs
        if self._setting.moves:
            everyone = np.arange(self.num_envs)
            self._aim(everyone)
            self._draw(everyone, fresh=True)

    def step(self, actions: np.ndarray | torch.Tensor) -> tuple[dict, torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        """One control step of every world; see the class."""
        self._require_begun("step")
        actions = self._checked(actions)
        began = time.perf_counter()
        self._calls += 1
        broken = self.sim.step(self.task.control(self.sim, self._readings, actions), self.task.substeps)
        self.warnings = dict(Counter(self.warnings) + Counter(broken.values()))
        bad = np.isin(np.arange(self.num_envs), list(broken))
        self._read()
        holds = self.task.success(self._readings).numpy() & ~bad
        reward = holds.astype(np.float32) if self.reward == "sparse" else self._dense_reward()
        reward = np.where(bad, np.float32(0), reward)
        self._steps += 1
        self._held = np.where(holds, self._held + 1, 0)
        self._ever |= holds
        self._returns += reward
        done = (self._steps >= self.horizon) | bad
        info: dict[str, Any] = {
            "success": self._tensor(self._held >= HOLD),
            "success_end": self._tensor(holds),
            "success_ever": self._tensor(self._ever.copy()),
            "episode_return": self._tensor(self._returns.astype(np.float32)),
            "episode_length": self._tensor(self._steps.copy()),
            "bad_physics": self._tensor(bad),
            "_final_obs": self._tensor(done),
        }
        self.seconds["physics"] += time.perf_counter() - began

        if self._setting.moves:
            self._aim(np.arange(self.num_envs))
        self._draw(np.arange(self.num_envs), fresh=False)
        ended = np.flatnonzero(done)
        if len(ended) and self._autoreset:
            info["final_obs"] = {key: value.clone() for key, value in self.observation().items()}
            self._counts[ended] += 1
            self._start(ended)
            self._draw(ended, fresh=True)
        return self.observation(), self._tensor(reward), self._tensor(np.zeros_like(done)), self._tensor(done), info

    def expert_actions(self, noise: float = 0.0) -> np.ndarray:
        """Actions (N, A) of the task's scripted expert, which sees the simulator's state.

        Args:
            noise: standard deviation, in units of the action, of Gaussian noise that is added before the action is clipped to [-1, 1].
                It is a function of the seed, the episode and its step alone.

        Raises:
            UserError: the task has no expert, or no such noise is possible.
            RuntimeError: no episode has begun.
        """
        self._require_begun("expert_actions")
        check_expert(self.task)
        check_range("noise", noise, 0, 10, "standard deviation of the expert's action noise")
        actions = self.task.expert(self._readings)
        if not noise:
            return actions
        draws = [
            rng(self.seed, "action_noise", *episode, int(step)).standard_normal(actions.shape[1])
            for episode, step in zip(self.episodes, self._steps, strict=True)
        ]
        return np.clip(actions + noise * np.stack(draws), -1, 1).astype(np.float32)

    def render_at(self, size: int, worlds: Sequence[int] | None = None, views: Sequence[str] | str | None = None) -> np.ndarray:
        """The current states drawn anew, (n, V, size, size, 3) uint8, as for a film.

        Args:
            size: height and width in pixels, at most 1280.
            worlds: which worlds; default all.
            views: which cameras, also ones that are not observed (these stand at their nominal pose); default the observed ones.

        Raises:
            UserError: no such size, world or camera is there.
            RuntimeError: no episode has begun.
        """
        self._require_begun("render_at")
        return self._drawn(size, worlds, views, "colours")

    def segment_at(self, size: int, worlds: Sequence[int] | None = None, views: Sequence[str] | str | None = None) -> np.ndarray:
        """The geom that each pixel of `render_at` shows, (n, V, size, size) int32: its id in the model, -1 where there is none."""
        self._require_begun("segment_at")
        return self._drawn(size, worlds, views, "geoms")

    def depth_at(self, size: int, worlds: Sequence[int] | None = None, views: Sequence[str] | str | None = None) -> np.ndarray:
        """Distances of what `render_at` shows along the optical axis, (n, V, size, size) float32 in metres; infinite where nothing is."""
        self._require_begun("depth_at")
        return self._drawn(size, worlds, views, "depth")

    def _drawn(self, size: int, worlds: Sequence[int] | None, views: Sequence[str] | str | None, picture: str) -> np.ndarray:
        check_whole("size", size, 1, MAX_SIZE)
        ids = np.arange(self.num_envs) if worlds is None else np.asarray(worlds)
        if ids.shape == (0,):
            ids = ids.astype(int)  # numpy takes an empty list for floats
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or ((ids < 0) | (ids >= self.num_envs)).any():
            raise UserError(f"worlds={worlds!r} is not possible. Give a list of whole numbers from 0 to {self.num_envs - 1}.")
        if views is None:
            cameras, poses = self._cameras, self._poses
        else:
            cameras = nominal_cameras(self._model, check_views(views))
            observed = {camera.name: column for column, camera in enumerate(self._cameras)}
            poses = np.empty((self.num_envs, len(cameras), 8))
            for column, camera in enumerate(cameras):
                poses[:, column] = self._poses[:, observed[camera.name]] if camera.name in observed else camera.pose
        world_poses = self._world_poses(cameras, poses)[ids]
        return self.sim.render(world_poses, ids, [self._looks[i] for i in ids], size, picture)

    def state_dict(self) -> dict:
        """Everything a later step depends on; with `load_state_dict` the worlds go on bit by bit as if nothing had happened."""
        return {
            "sim": self.sim.get_state(),
            "task_name": self.task.name,
            "task": self.task.state_dict(),
            "seed": self.seed,
            "counts": self._counts.copy(),
            "steps": self._steps.copy(),
            "held": self._held.copy(),
            "ever": self._ever.copy(),
            "returns": self._returns.copy(),
            "attempts": self._attempts.copy(),
            "frames": self._frames.clone(),
            "calls": self._calls,
            "warnings": dict(self.warnings),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restores a `state_dict` of an environment with the same settings.

        Raises:
            UserError: the snapshot is of another task, number of worlds, views or picture size.
            Failure: it holds numbers that are not finite.
        """
        name = state.get("task_name", self.task.name)  # older snapshots do not tell
        if name != self.task.name:
            raise UserError(f"The snapshot is of task={name}, this environment of task={self.task.name}. Build it with task={name}.")
        found, expected = tuple(state["frames"].shape), tuple(self._frames.shape)
        if found != expected or state["sim"].shape != self.sim.get_state().shape:
            raise UserError(
                f"The snapshot holds pictures (worlds, views, frames, 3, H, W) = {found}, this environment {expected}. Build it with the "
                "same task, num_envs, views, frame_stack and image_size as the run that saved it."
            )
        self.seed = int(state["seed"])
        self._counts, self._steps, self._held = (np.array(state[key], dtype=np.int64) for key in ("counts", "steps", "held"))
        self._ever, self._returns = np.array(state["ever"], dtype=bool), np.array(state["returns"], dtype=np.float64)
        self.sim.set_state(state["sim"])
        self.task.load_state_dict(state["task"])
        self._attempts = np.array(state.get("attempts", np.zeros_like(self._attempts)))  # older snapshots had none
        everyone = np.arange(self.num_envs)
        self._draw_looks(everyone)
        self._draw_views(everyone)
        self._read()
        self._frames = state["frames"].clone()
        self._calls, self.warnings = int(state["calls"]), {kind: int(count) for kind, count in state["warnings"].items()}
        self._begun = True

    def observation(self) -> dict[str, torch.Tensor]:
        """The current observation, as the last reset or step returned it; a RuntimeError before the first reset."""
        self._require_begun("observation")
        frames = self._frames[:, :, 0] if self.frame_stack == 1 else self._frames
        camera = self._world_poses(self._cameras, self._poses).astype(np.float32)
        state = self.task.observe(self._readings, self.privileged)
        self._refuse_infinities("state", state.numpy())
        self._refuse_infinities("camera", camera)
        return {"images": frames.to(self.device), "state": state.to(self.device), "camera": self._tensor(camera)}

    def close_extras(self, **kwargs) -> None:
        self.sim.close()

    def _episode(self, world: int) -> tuple:
        if self._evaluation_ids is None:
            return ("training", world, int(self._counts[world]))
        return ("evaluation", self._evaluation_ids[(world + self.num_envs * int(self._counts[world])) % len(self._evaluation_ids)])

    def _start(self, ids: np.ndarray) -> None:
        """Puts worlds into the start states of their current episodes."""
        began = time.perf_counter()
        self.sim.write(ids, self.task.reset([rng(self.seed, "start", *self._episode(i)) for i in ids]))
        broken = self.sim.forward(ids)
        if broken:
            world, kind = next(iter(broken.items()))
            raise Failure(
                f"{self._place(world)}: MuJoCo refuses the episode's start state ({kind}), so it cannot begin. A start state must be one "
                "from which the physics can go on. Look at what the task's reset returns, and at <size memory> of its model."
            )
        self._read()
        self.task.begin(ids, self._readings)
        self._steps[ids] = self._held[ids] = 0
        self._ever[ids], self._returns[ids] = False, 0
        self._draw_looks(ids)
        self._attempts[ids] = 0
        self._draw_views(ids)
        if self._filter is not None and self._cameras:
            self._redraw_views(ids)
        self.seconds["reset"] += time.perf_counter() - began

    def _read(self) -> None:
        """Takes the sensors' current readings of all worlds."""
        self._readings = Readings(self.task.name, self.sim.readings())
        for sensor, value in self._readings.items():
            self._refuse_infinities(f"sensor {sensor}", value.numpy())

    def _dense_reward(self) -> np.ndarray:
        """(N,) the task's reward, checked."""
        reward = self.task.reward(self._readings).numpy()
        low, high = self.task.reward_range
        within = (reward >= low - REWARD_ROUNDING) & (reward <= high + REWARD_ROUNDING)
        if not within.all():
            self._refuse_infinities("reward", reward)
            world = int(np.flatnonzero(~within)[0])
            raise Failure(
                f"{self._place(world)}: the reward {reward[world]:g} is outside the range [{low:g}, {high:g}] that the task declares. "
                "Bound it in the task's reward, or declare its true range as the task's reward_range."
            )
        return reward

    def _refuse_infinities(self, term: str, value: np.ndarray) -> None:
        finite = np.isfinite(value)
        if not finite.all():
            world = int(np.argwhere(~finite)[0, 0])
            raise Failure(
                f"{self._place(world)}: {term} is not finite ({np.array2string(value[world].reshape(-1)[:4], precision=3)}). Everything "
                "that learns from it would turn to NaN. Look for a division by zero or a root of a negative number in the task, or for an "
                "unstable model."
            )

    def _require_begun(self, call: str) -> None:
        if not self._begun:
            raise RuntimeError(f"{call}() before reset(): call env.reset() once first.")

    def _place(self, world: int) -> str:
        return f"Step {self._calls}, world {world}, episode {'/'.join(map(str, self._episode(world)))}"

    def _draw_looks(self, ids: np.ndarray) -> None:
        """What the worlds' current episodes look like: a function of the seed and the episode alone, so never saved."""
        for i in ids:
            self._looks[i] = sample_look(self.appearance, rng(self.seed, "appearance", *self._episode(i)), self.task.keep_clear)

    def _draw_views(self, ids: np.ndarray) -> None:
        """Where the cameras of the worlds' current episodes stand: a function of the seed, the episode and the attempts alone."""
        for i in ids:
            occasion = Occasion(self._episode(i), self.horizon, self._progress(i))
            self._views[i] = self._setting.draw(self._cameras, self.seed, occasion, self._attempts[i].tolist())
        self._aim(ids)

    def _progress(self, world: int) -> float:
        """Share of the training that was done when a world's episode began, were all episodes of full length: a function of its id."""
        if self._camera_steps is None:
            return 1.0
        return min(1.0, int(self._counts[world]) * self.horizon * self.num_envs / self._camera_steps)

    def _aim(self, ids: np.ndarray) -> None:
        """Takes the cameras' poses from the views of the worlds' episodes, at their present step."""
        for i in ids:
            for column, view in enumerate(self._views[i]):
                self._poses[i, column] = view.poses[min(self._steps[i], len(view.poses) - 1)]

    def _redraw_views(self, ids: np.ndarray) -> None:
        """Draws views anew that the filter rejects, a few times; the last one stays."""
        assert self._filter is not None
        nominal = np.tile([camera.pose for camera in self._cameras], (self.num_envs, 1, 1))
        drawn = np.ones((len(ids), len(self._cameras)), dtype=bool)  # which views are new
        for attempt in range(REDRAWS + 1):
            poses, unmoved = (self._world_poses(self._cameras, each)[ids] for each in (self._poses, nominal))
            looks = [self._looks[i] for i in ids]
            faults = self._filter.find_faults(self.sim, poses, unmoved, ids, looks)
            wrong = faults != Fault.NONE
            drawn &= (self._poses[ids] != nominal[ids]).any(axis=2)  # a camera that stays nominal is not drawn
            self.view_faults += np.bincount(faults[drawn], minlength=len(Fault))
            if attempt == REDRAWS:
                break
            if self._setting.together:
                wrong |= wrong.any(axis=1, keepdims=True)
            self._attempts[ids] += wrong
            again = wrong.any(axis=1)
            ids, drawn = ids[again], wrong[again]
            before = self._poses[ids]
            self._draw_views(ids)
            changed = (self._poses[ids] != before).any(axis=(1, 2))  # a list of views has no others to offer
            ids, drawn = ids[changed], drawn[changed]
            if not len(ids):
                break

    def _draw(self, ids: np.ndarray, fresh: bool) -> None:
        """Draws worlds into the frame stack; a fresh episode's first picture fills it."""
        if not self._cameras:
            return
        began = time.perf_counter()
        cameras = self._world_poses(self._cameras, self._poses)[ids]
        pictures = torch.from_numpy(self.sim.render(cameras, ids, [self._looks[i] for i in ids], self.image_size)).permute(0, 1, 4, 2, 3)
        if fresh:
            self._frames[ids] = pictures[:, :, None].expand(-1, -1, self.frame_stack, -1, -1, -1)
        else:
            if self.frame_stack > 1:
                self._frames[:, :, :-1] = self._frames[:, :, 1:].clone()
            self._frames[:, :, -1] = pictures
        self.seconds["render"] += time.perf_counter() - began

    def _world_poses(self, cameras: list, poses: np.ndarray) -> np.ndarray:
        """Camera poses (N, V, 8) in the world's frame."""
        return to_world(poses, *self.sim.body_pose([camera.body for camera in cameras]))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _checked(self, actions: np.ndarray | torch.Tensor) -> np.ndarray:
        """The actions as float64 (N, A); refuses other shapes, values outside [-1, 1] and NaN."""
        actions = actions.detach().cpu().numpy() if isinstance(actions, torch.Tensor) else np.asarray(actions)
        expected = (self.num_envs, self.task.action_dim())
        if actions.shape != expected:
            raise ValueError(f"actions have the shape {actions.shape}; this environment takes (worlds, actions) = {expected}.")
        actions = actions.astype(np.float64)
        if not (np.abs(actions) <= 1).all():
            world = int(np.flatnonzero(~(np.abs(actions) <= 1).all(axis=1))[0])
            raise ValueError(f"action of world {world} is {actions[world]}; actions must be numbers in [-1, 1]. Clip the policy's output.")
        return actions
