"""MAE: encode a quarter of the patches, rebuild the pixels of the rest with a light decoder.

Paper: He et al. 2022, Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377.
Code: github.com/facebookresearch/mae (models_mae.py), whose parameter names the decoder has.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robo_repr.encoders.base import Encoder
from robo_repr.nn.positions import sincos_2d
from robo_repr.objectives.base import BatchNeeds


class MAE(nn.Module):
    """The masked autoencoder around an encoder that can encode visible patches alone.

    Args:
        encoder: with ``"mask"`` among its abilities; it is trained.
        mask_ratio: share of the patches that are hidden; int(K * (1 - mask_ratio)) stay visible.
        norm_pix: the target of each patch is standardised by the patch's own mean and variance.
        decoder_dim, decoder_depth, decoder_heads: the paper's decoder, for every encoder size.
        seed: draws the decoder's initial weights.
    """

    needs = BatchNeeds(keys=("images",), encoder=("mask",))
    decoder_pos_embed: Tensor

    def __init__(
        self,
        encoder: Encoder,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        seed: int = 0,
    ):
        super().__init__()
        from timm.models.vision_transformer import Block  # here, because timm takes a second to import

        spec = encoder.spec
        if "mask" not in spec.can or spec.grid is None:
            raise ValueError(f"MAE needs an encoder that can encode visible patches alone; {spec.name} cannot. Use encoder=mvp.")
        self.encoder, self.mask_ratio, self.norm_pix = encoder, mask_ratio, norm_pix
        self.patch, self.prefix = spec.size[0] // spec.grid[0], encoder.prefix_tokens
        norm: Any = partial(nn.LayerNorm, eps=1e-6)  # Any: timm wants a class
        self.decoder_embed = nn.Linear(spec.token_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.register_buffer("decoder_pos_embed", sincos_2d(decoder_dim, spec.grid, self.prefix)[None])
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder_dim, decoder_heads, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth))
        )
        self.decoder_norm = norm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, self.patch**2 * 3)
        self._initialise(seed)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch, which is only read.

        Args:
            batch: ``images`` (B, 3, H, W), as for the encoder; optionally ``noise`` (B, K): the patches with the smallest values stay
                visible. Without it, noise is drawn from torch's global generator.

        Returns:
            ``loss`` = ``loss/mae``: squared error, averaged over hidden patches alone; ``metric/prediction_std``: deviation of the
            predictions, near 0 while the decoder says the same of every patch.
        """
        images = batch["images"]
        noise = batch.get("noise")
        if noise is None:
            noise = torch.rand(len(images), self.decoder_pos_embed.shape[1] - self.prefix, device=self.mask_token.device)
        prediction, hidden = self.predict(images, noise)
        error = (prediction.float() - self.target(images)).square().mean(dim=2)
        loss = (error * hidden).sum() / hidden.sum()
        return {"loss": loss, "loss/mae": loss.detach(), "metric/prediction_std": prediction.detach().float().std()}

    def predict(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted pixels (B, K, patch * patch * 3) and the mask (B, K), 1 where a patch was hidden."""
        keep, restore, hidden = random_masking(noise, self.mask_ratio)
        visible = self.decoder_embed(self.encoder.visible(images, keep, prefix=True))
        prefix, visible = visible[:, : self.prefix], visible[:, self.prefix :]
        filler = self.mask_token.expand(len(noise), noise.shape[1] - keep.shape[1], -1)
        tokens = torch.cat([visible, filler], dim=1)
        tokens = tokens.gather(1, restore[:, :, None].expand(-1, -1, tokens.shape[2]))
        sequence = torch.cat([prefix, tokens], dim=1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(sequence)))[:, self.prefix :], hidden

    @torch.no_grad()
    def target(self, images: Tensor) -> Tensor:
        """What should be predicted (B, K, patch * patch * 3): pixels as the encoder normalises them, standardised per patch if norm_pix."""
        pixels = patchify(self.encoder.preprocess(images), self.patch)
        if self.norm_pix:
            pixels = (pixels - pixels.mean(dim=2, keepdim=True)) / (pixels.var(dim=2, keepdim=True) + 1e-6).sqrt()
        return pixels

    def param_groups(self, weight_decay: float) -> list[dict]:
        """Optimiser groups by MAE's rule: biases and norms are not decayed, class and mask token are."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
        ]

    def after_step(self, step: int, total: int) -> None:
        """Nothing: MAE has no teacher, queue or schedule of its own."""

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.startswith("encoder."):
                continue
            if name == "mask_token":
                parameter.normal_(std=0.02, generator=generator)
            elif parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def random_masking(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Which patches stay visible: those with the smallest noise, in the order of the noise.

    Args:
        noise: (B, K).

    Returns:
        keep (B, k) with k = int(K * (1 - mask_ratio)); restore (B, K), the place of each patch in the shuffled order; and the mask (B, K),
        1 where hidden.
    """
    shuffled = noise.argsort(dim=1, stable=True)
    restore = shuffled.argsort(dim=1, stable=True)
    visible = int(noise.shape[1] * (1 - mask_ratio))
    return shuffled[:, :visible], restore, (restore >= visible).float()


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images (B, 3, H, W) to patches (B, K, patch * patch * 3), row by row; within a patch (row, column, channel)."""
    batch, channels, height, width = images.shape
    parts = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return parts.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)
