"""What an objective asks of its batches and its encoder, checked before training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchNeeds:
    """keys: of the batch. encoder: abilities that ``encoder.spec.can`` must hold."""

    keys: tuple[str, ...]
    encoder: tuple[str, ...] = ()
