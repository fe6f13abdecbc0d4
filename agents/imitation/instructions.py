"""How one policy for several tasks is told which one is meant: numbers beside its state."""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robo_repr.encoders.base import Encoder

WORDS = 64  # numbers of a sentence where the encoder has no text tower


class Instructions:
    """Tasks or sentences to vectors.

    ``onehot`` says which task it is. ``language`` gives what the encoder makes of the sentence, where it encodes text; of others, which of
    `WORDS` slots the sentence's words fall into, so that sentences with common words are alike. Demonstrations tell their own sentence; an
    evaluation episode draws one of its task's.

    Args:
        kind: ``none``, ``onehot``, ``language``, or None: ``onehot`` for several tasks, else ``none``.
        tasks: the run's.
        encoder: may encode text.

    Attributes:
        size: length of a vector.
    """

    def __init__(self, kind: str | None, tasks: Sequence[str], encoder: Encoder):
        self.kind = kind or ("onehot" if len(tasks) > 1 else "none")
        self._tasks, self._encoder = list(tasks), encoder
        self._known: dict[str, Tensor] = {}
        text = encoder.spec.dim if "text" in encoder.spec.can else WORDS
        self.size = {"none": 0, "onehot": len(tasks), "language": text}[self.kind]

    def vector(self, task: str, sentence: str) -> Tensor:
        """(size,) float32 of one demonstration or episode."""
        if self.kind == "none":
            return torch.zeros(0)
        if self.kind == "onehot":
            return torch.eye(len(self._tasks))[self._tasks.index(task)]
        if sentence not in self._known:
            self._known[sentence] = self._encoded(sentence)
        return self._known[sentence]

    def of_worlds(self, env: Any) -> Tensor:
        """(N, size) of the current episodes of a BatchEnv."""
        sentences = env.language if self.kind == "language" else [""] * env.num_envs
        return torch.stack([self.vector(env.task.name, sentence) for sentence in sentences])

    def _encoded(self, sentence: str) -> Tensor:
        if "text" in self._encoder.spec.can:
            with torch.no_grad():
                vector = self._encoder.encode_text([sentence])[0].float().cpu()
        else:
            vector = torch.zeros(WORDS)
            for word in re.findall(r"\w+", sentence.lower()):
                vector[zlib.crc32(word.encode()) % WORDS] += 1
        # Of length 1 times the root of its size: as large as the state's numbers, which are about 1.
        return vector / vector.norm().clamp(min=1e-6) * len(vector) ** 0.5
