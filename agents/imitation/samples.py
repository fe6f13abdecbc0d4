"""What is learned from: samples of demonstrations, batch by batch, each batch a function of (seed, step) alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robo_repr.core.seeding import rng


class Samples:
    """All places in the demonstrations where an action follows, with the frames and the actions around them.

    Args:
        observed, predicted: offsets, as an `ImitationPolicy` gives them.
        state: of each episode (T, S) float32.
        actions: of each episode (T - 1, A) float32.
        features: of each episode (T, D) float16; None where pictures are encoded in every update.
        images: of each episode (T, V, ...) uint8; None where the features are known.
        batch_size, sampling: as the policy gives them.
        seed: of the batches.
        device: of what `batch` returns; everything but pictures is kept there.
    """

    def __init__(
        self,
        observed: Sequence[int],
        predicted: Sequence[int],
        state: Sequence[Tensor],
        actions: Sequence[Tensor],
        features: Sequence[Tensor] | None,
        images: Sequence[Tensor] | None,
        batch_size: int,
        sampling: str,
        seed: int,
        device: str,
    ):
        lengths = torch.tensor([len(episode) for episode in state])
        ends = lengths.cumsum(0)
        taken = torch.ones(int(ends[-1]), dtype=torch.bool)
        taken[ends - 1] = False  # no action follows an episode's last frame
        frames = taken.nonzero()[:, 0]
        episode = torch.searchsorted(ends, frames, right=True)
        first, last = (ends - lengths)[episode], ends[episode] - 1
        wanted = frames[:, None] + torch.tensor(predicted)
        self._observed = (frames[:, None] + torch.tensor(observed)).clamp(first[:, None], last[:, None])
        self._predicted = wanted.clamp(first[:, None], last[:, None] - 1).to(device)
        self._padding = ((wanted < first[:, None]) | (wanted >= last[:, None])).to(device)
        none = [torch.zeros(1, actions[0].shape[1])]
        self.state = torch.cat(list(state)).to(device)
        self.actions = torch.cat([part for one in actions for part in (one, *none)]).to(device)  # with a row for each frame
        self.taken = taken
        self._features = None if features is None else torch.cat(list(features)).to(device)
        self._images = None if images is None else torch.cat(list(images))
        self._device, self._seed, self._sampling = device, seed, sampling
        self.batch_size = min(batch_size, len(frames)) if sampling == "epochs" else batch_size
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._observed)

    def rows(self, step: int) -> np.ndarray:
        """Which samples update `step` learns from, (B,)."""
        if self._sampling == "replacement":
            return rng(self._seed, "samples", step).integers(len(self), size=self.batch_size)
        epoch, place = divmod(step, len(self) // self.batch_size)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, rng(self._seed, "samples/epoch", epoch).permutation(len(self))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> dict[str, Tensor]:
        """What an `ImitationPolicy` takes; where pictures are to be encoded, ``images`` (B, len(observed), V, ...) uint8 instead of
        ``features``."""
        rows = torch.from_numpy(self.rows(step))
        seen, rows = self._observed[rows], rows.to(self._device)
        there = seen.to(self._device)
        batch = {
            "state": self.state[there],
            "actions": self.actions[self._predicted[rows]],
            "is_padding": self._padding[rows],
        }
        if self._features is not None:
            batch["features"] = self._features[there].float()
        elif self._images is not None:
            batch["images"] = self._images[seen].to(self._device)
        else:
            batch["features"] = batch["state"][..., :0]
        return batch
