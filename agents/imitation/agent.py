"""The agent that imitates: a policy on what an encoder sees, which may learn too, and the loop that trains it."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.camera_input import CameraInput
from agents.eyes import Eyes
from agents.imitation.instructions import Instructions
from agents.imitation.policies.base import ImitationPolicy
from agents.imitation.samples import Samples
from robo_repr.core.checkpoint import DamagedCheckpoint, load_state, save_state
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.seeding import stream_seed
from robo_repr.data.augment import Augment
from robo_repr.encoders.weights import load_strictly, read_weights, save_weights

ENCODER = "encoder.safetensors"  # in a checkpoint, what weights=RUN_FOLDER looks for
# The shift is DrQ's for 84 x 84 pixels, the crop R3M's.
AUGMENTATIONS = {"none": None, "shift": Augment(shift=4), "crop": Augment(crop=(0.2, 1.0))}


class ImitationAgent:
    """What `PolicyRun` asks of an agent.

    Args:
        policy: what learns.
        eyes: what it sees through; calibrated before the first update.
        instructions: how it is told its task.
        camera_input: what stands beside its state about its cameras.
        learning: how the encoder learns: ``frozen``, ``last:N`` or ``full``.
        begin: the update from which on it does; before, it is frozen.
        bn: of an encoder that learns, see `Encoder.unfreeze`.
        rate: learning rate of the encoder; None is the policy's.
        augment: a key of `AUGMENTATIONS`.
    """

    trains, env_steps = True, 0

    def __init__(
        self,
        policy: ImitationPolicy,
        eyes: Eyes,
        instructions: Instructions,
        *,
        camera_input: CameraInput,
        learning: str,
        begin: int,
        bn: str,
        rate: float | None,
        augment: str,
        seed: int,
        device: str,
    ):
        self.policy_net, self.eyes, self.instructions, self.camera_input = policy.to(device).eval(), eyes, instructions, camera_input
        self._learning, self.begin, self._bn, self._rate = learning, begin, bn, rate
        self._augment, self._seed, self.device = AUGMENTATIONS[augment], seed, device
        self._optimiser = policy.build_optimiser()
        self.updates, self.learns_to_see = 0, False
        self.learned_from: str | None = None  # which demonstrations
        self.seconds = {"encode": 0.0, "update": 0.0}
        # Made when the training begins: the samples with features, and those with pictures.
        self.samples: Samples | None = None
        self.pictures: Samples | None = None
        self.forget_losses()
        if learning != "frozen":
            self._unfreeze()  # more blocks than there are show now
            eyes.encoder.freeze()

    @property
    def needs_features(self) -> bool:
        """Whether updates use features that were computed before."""
        return self._augment is None and (self._learning == "frozen" or self.begin > 0)

    @property
    def needs_images(self) -> bool:
        """Whether updates encode pictures."""
        return self.eyes.dim > 0 and (self._augment is not None or self._learning != "frozen")

    def parameters(self) -> int:
        """How many numbers learn."""
        own = sum(parameter.numel() for parameter in self.policy_net.parameters() if parameter.requires_grad)
        return own + sum(parameter.numel() for parameter in self.eyes.encoder.parameters() if parameter.requires_grad)

    def learn(self, total_steps: int, on_boundary: Callable[[], bool]) -> None:
        """Trains until `total_steps` updates.

        Args:
            on_boundary: called before every update and once after the last; training stops when it returns False.

        Raises:
            Failure: a loss or a weight is not finite.
        """
        while on_boundary() and self.updates < total_steps:
            if self._learning != "frozen" and not self.learns_to_see and self.updates >= self.begin:
                self._begin_to_see()
            began = time.perf_counter()
            self._update(total_steps)
            self.seconds["update"] += time.perf_counter() - began

    def _update(self, total: int) -> None:
        # What torch.manual_seed does, without the list of callers that it makes for a graphics card that is not used: 0.7 ms.
        (torch.default_generator if self.device == "cpu" else torch).manual_seed(stream_seed(self._seed, "update", self.updates))
        source = self.pictures if self.learns_to_see or self._augment else self.samples
        assert source is not None, "the demonstrations are not there"
        batch = source.batch(self.updates)
        self.policy_net.train()
        if self.learns_to_see:
            self.eyes.encoder.train()
        if "images" in batch:
            batch["features"] = self._seen(batch.pop("images"))
        losses = self.policy_net.loss(batch)
        for group in self._optimiser.param_groups:
            group["lr"] = group["initial_lr"] * self.policy_net.rate(self.updates, total)
        self._optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if self.policy_net.gradient_clip is not None:
            learning = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(learning, self.policy_net.gradient_clip)
        self._optimiser.step()
        self.policy_net.after_update()
        self.policy_net.eval()
        self.eyes.encoder.eval()
        self.updates += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._count += 1

    def _seen(self, images: Tensor) -> Tensor:
        """Features (B, T, D) of pictures (B, T, V, ...) uint8, with gradients where the encoder learns."""
        samples, frames = images.shape[:2]
        if self._augment is not None:
            # Frames of a stack are frames too: all that a sample shows moves alike.
            stacked = images.flatten(2, 3) if images.ndim == 7 else images
            stacked = self._augment(stacked, seed=self._seed, step=self.updates)
            images = stacked.unflatten(2, images.shape[2:4]) if images.ndim == 7 else stacked
        with torch.set_grad_enabled(self.learns_to_see):
            features = self.eyes.encode(images.flatten(0, 1))
            assert features is not None
            return self.eyes.read(features).unflatten(0, (samples, frames))

    def _begin_to_see(self) -> None:
        """From here on the encoder learns."""
        self._unfreeze()
        learning = [parameter for parameter in self.eyes.encoder.parameters() if parameter.requires_grad]
        rate = self.policy_net.learning_rate if self._rate is None else self._rate
        self._optimiser.add_param_group({"params": learning, "lr": rate, "initial_lr": rate, "weight_decay": 0.0})
        self.learns_to_see = True

    def _unfreeze(self) -> None:
        self.eyes.encoder.unfreeze(self._learning, self._bn, "pooled" if self.eyes.readout.grid is None else "tokens")

    def act(self, obs: dict[str, Tensor], memory: Any = None, first: Any = None, deterministic: bool = True) -> tuple[np.ndarray, Any]:
        """Actions (N, A) in [-1, 1] for the observation of a BatchEnv with the training views, and what to remember.

        Args:
            obs: with ``instruction`` (N, size) where there are several tasks; `policy` adds it.
            memory: what the last call returned; None before the first one.
            first: (N,) bool, worlds in which an episode begins.
            deterministic: there is no other way.
        """
        began = time.perf_counter()
        features = self.eyes.see(obs["images"])
        self.seconds["encode"] += time.perf_counter() - began
        state = [obs["state"].float()]
        if self.instructions.size:
            state.append(obs["instruction"])
        if self.camera_input.size:
            state.append(self.camera_input(obs["camera"]))
        seen = {"features": features.float(), "state": torch.cat([part.cpu() for part in state], dim=1)}
        first = torch.ones(len(features), dtype=torch.bool) if memory is None or first is None else torch.as_tensor(first)
        with torch.no_grad():
            actions, memory = self.policy_net.act(
                {key: value.to(self.device) for key, value in seen.items()}, memory, first.to(self.device)
            )
        return actions.cpu().numpy(), memory

    def policy(self, env: Any) -> "Imitator":
        """What acts in the worlds of a BatchEnv."""
        return Imitator(self, env)

    def losses(self) -> dict[str, float]:
        """Means since `forget_losses`; empty when there was no update.

        Raises:
            Failure: one of them, or a weight, is not finite.
        """
        means = {name: float(total) / self._count for name, total in self._sums.items()} if self._count else {}
        broken = next((name for name, value in means.items() if not math.isfinite(value)), None)
        learning = [self.policy_net, *([self.eyes.encoder] if self.learns_to_see else [])]
        if broken is None and not torch.nn.utils.get_total_norm([p for net in learning for p in net.parameters()]).isfinite():
            broken = next(name for net in learning for name, weight in net.named_parameters() if not weight.isfinite().all())
        if broken is not None:
            raise Failure(f"update {self.updates}: {broken} is not finite. Training diverged: lower policy.learning_rate.")
        return means

    def forget_losses(self) -> None:
        """Begins the means of `losses` anew."""
        self._sums: dict[str, Any] = {}
        self._count = 0

    def save(self, folder: Path) -> None:
        """Writes everything `load` needs: ``policy`` (what acting needs), ``training`` (the rest), and the encoder where it learns."""
        self.losses()  # no broken weights are kept
        encoder = self.eyes.encoder
        if self.learns_to_see:
            told = f"{encoder.trained_by}, fine-tuned by imitation ({self._learning})"
            save_weights(encoder, folder / ENCODER, {"trained_by": told}, half=False)
        state = {
            "networks": dict(self.policy_net.state_dict()),
            "readout": self.eyes.state(),
            "encoder": None if self.learns_to_see else encoder.fingerprint(),
        }
        save_state(folder, "policy", state)
        sums = {name: float(total) for name, total in self._sums.items()}
        optimiser = {str(index): dict(tensors) for index, tensors in self._optimiser.state_dict()["state"].items()}
        counts = {"updates": self.updates, "sums": sums, "count": self._count, "learned_from": self.learned_from}
        save_state(folder, "training", {**counts, "optimiser": optimiser})

    def load_policy(self, folder: Path) -> None:
        """Restores what `act` needs.

        Raises:
            DamagedCheckpoint: a file is missing or damaged.
            UserError: the encoder is not the one that the policy learned with.
        """
        state = load_state(folder, "policy")
        encoder = self.eyes.encoder
        if state["encoder"] is None:
            try:
                weights, _ = read_weights(folder / ENCODER)
                load_strictly(encoder.net, weights, folder / ENCODER, encoder.spec.name)
            except UserError as error:
                raise DamagedCheckpoint(str(error)) from error
        elif state["encoder"] != encoder.fingerprint():
            raise UserError(
                f"{folder} was trained on features of another encoder (fingerprint {state['encoder']}, this one has "
                f"{encoder.fingerprint()}): its weights or precision changed since. Put back what it was, or train anew with fresh=true."
            )
        self.eyes.load_state(state["readout"])
        self.policy_net.load_state_dict(state["networks"])

    def load(self, folder: Path) -> None:
        """Restores a checkpoint; `learn` goes on from there as if it had never stopped."""
        training = load_state(folder, "training")
        self.load_policy(folder)
        if (folder / ENCODER).exists() and not self.learns_to_see:
            self._begin_to_see()
        groups = self._optimiser.state_dict()["param_groups"]
        tensors = {int(index): state for index, state in training["optimiser"].items()}
        self._optimiser.load_state_dict({"state": tensors, "param_groups": groups})
        self.updates, self._sums, self._count = training["updates"], dict(training["sums"]), training["count"]
        self.learned_from = training["learned_from"]


class Imitator:
    """The agent as a `Policy` in one batch of worlds: remembers what it needs to, and tells it what the worlds are asked to do."""

    def __init__(self, agent: ImitationAgent, env: Any):
        self.agent, self._env = agent, env
        self._memory: Any = None
        self._first: np.ndarray | None = None
        self._instruction: Tensor | None = None

    def act(self, obs: dict[str, Tensor]) -> np.ndarray:
        first = np.ones(len(obs["state"]), dtype=bool) if self._first is None or self._memory is None else self._first
        if self.agent.instructions.size:
            if self._instruction is None or first.any():
                self._instruction = self.agent.instructions.of_worlds(self._env)
            obs = {**obs, "instruction": self._instruction.expand(len(obs["state"]), -1)}  # of one world's, of those of `load_policy`
        actions, self._memory = self.agent.act(obs, self._memory, first)
        self._first = np.zeros_like(first)
        return actions

    def reset(self, mask: np.ndarray) -> None:
        self._first = np.array(mask, dtype=bool) | (False if self._first is None else self._first)
