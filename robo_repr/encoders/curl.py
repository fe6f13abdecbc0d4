"""CURL: the small convolutional network that sees a stack of frames, seen through its normalised latent.

Paper: Laskin et al. 2020, https://arxiv.org/abs/2004.04136. Code: github.com/MishaLaskin/curl (encoder.py, curl_sac.py). As in that code,
and unlike the paper's sketch, there is neither a tanh at the end nor a hidden layer.
"""

import math

import torch
from torch import Tensor, nn

from robo_repr.core.errors import UserError, check_range
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import State, fill, rename
from robo_repr.nn.untrained import untrained

MOST_WEIGHTS = 2 * 10**8  # of the last layer, which grows with the square of the picture: 800 MB


class CURL(Encoder):
    """The encoder: pooled (B, dim) is the LayerNorm's output, tokens (B, side * side, filters) are the last convolution's map after ReLU.

    It takes whole stacks (B, frames, 3, H, W), oldest frame first. The authors render at 100 x 100 and cut the middle 84 x 84 out; pictures
    of another size are resized to the same proportion first, and those of `size` pass as they are. Colours are divided by 255, no more.

    Args:
        size: height and width in pixels of what the network sees.
        frames: of a stack.
        layers, filters: of the convolutions; the first has stride 2.
        dim: length of the latent.
        weights: ``"random"``, or a file that the authors' code wrote (curl_*.pt, actor_*.pt, critic_*.pt). None is refused: none were
            published.
        seed: draws the untrained weights.
    """

    def __init__(
        self,
        size: int = 84,
        frames: int = 3,
        layers: int = 4,
        filters: int = 32,
        dim: int = 50,
        weights: str | None = None,
        seed: int = 0,
    ):
        for key, value, high in (
            ("size", size, 1280),
            ("frames", frames, 64),
            ("layers", layers, 100),
            ("filters", filters, 1024),
            ("dim", dim, 4096),
        ):
            check_range(f"encoder.{key}", value, 1, high)
        side = map_side(size, layers)
        if side < 1:
            raise UserError(
                f"encoder.size={size} is too small for encoder.layers={layers}: nothing is left of the picture. Set encoder.size to at "
                f"least {4 * layers - 1}."
            )
        if (last := filters * side * side * dim) > MOST_WEIGHTS:
            raise UserError(
                f"encoder.size={size} with filters={filters} and dim={dim} would give the last layer {last:.0e} weights; there may be "
                f"{MOST_WEIGHTS:.0e}. Lower one of them."
            )
        source = find_weights("curl", None, weights)
        spec = EncoderSpec(
            "curl",
            (size, size),
            dim,
            frames=frames,
            token_dim=filters,
            grid=(side, side),
            mean=(0, 0, 0),
            std=(1, 1, 1),
            resize=round(size * 100 / 84),
            untouched=True,
        )
        super().__init__(spec)
        self.net = untrained(lambda: PixelNet(3 * frames, layers, filters, side, dim), seed)
        fill(self, source, seed)

    def convert(self, state: State) -> State:
        """Of the files of a whole method, the query encoder is kept: its target, the heads and the contrastive matrix W are dropped."""
        state = rename(
            state,
            (r"^(CURL\.|critic\.)?encoder\.", ""),
            (r"^(CURL\.)?(W$|encoder_target\.)|^(critic\.)?(trunk|Q1|Q2)\.", None),
        )
        found, own = shape_of(state), shape_of(self.net.state_dict())
        if found and own and found != own:
            names = [f"{key}={found[key]} instead of {own[key]}" for key in own if found[key] != own[key]]
            raise UserError(f"The weights file is of a curl with other settings: {', '.join(names)}. Set encoder.{names[0].split()[0]}.")
        return state

    def blocks(self) -> list[nn.Module]:
        return list(self.net.convs.children())

    def encode(self, images: Tensor) -> Features:
        latent, maps = self.net(images.flatten(1, 2) if self.spec.frames > 1 else images)
        return Features(latent.float(), maps.flatten(2).transpose(1, 2).float())


class PixelNet(nn.Module):
    """The network, with the names of the authors' files: (B, channels, size, size) to latent (B, dim) and map (B, filters, side, side).

    It starts as theirs does: each kernel is zero but for an orthogonal matrix (gain sqrt 2) in its centre, the last layer is orthogonal,
    all biases are zero.
    """

    def __init__(self, channels: int, layers: int, filters: int, side: int, dim: int):
        super().__init__()
        convs = [nn.Conv2d(filters if layer else channels, filters, 3, stride=1 if layer else 2) for layer in range(layers)]
        self.convs = nn.ModuleList(convs)
        self.fc = nn.Linear(filters * side * side, dim)
        self.ln = nn.LayerNorm(dim)
        with torch.no_grad():
            for conv in convs:
                conv.weight.zero_()[:, :, 1, 1] = nn.init.orthogonal_(torch.empty(conv.weight.shape[:2]), math.sqrt(2))
        nn.init.orthogonal_(self.fc.weight)
        for layer in (*convs, self.fc):
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            pixels = conv(pixels).relu()
        return self.ln(self.fc(pixels.flatten(1))), pixels


def map_side(size: int, layers: int) -> int:
    """Height and width of the last map for pictures of size x size; below 1 where nothing is left."""
    return (size - 3) // 2 + 1 - 2 * (layers - 1)


def shape_of(state: State) -> dict[str, int] | None:
    """The settings that a network's tensors show, None where they are no CURL network's. Of two possible sizes it is the even one."""
    try:
        first, wide = state["convs.0.weight"], state["fc.weight"]
        layers = sum(key.startswith("convs.") and key.endswith(".weight") for key in state)
        side = math.isqrt(wide.shape[1] // first.shape[0])
        size = 2 * (side + 2 * (layers - 1)) + 2
        return {"frames": first.shape[1] // 3, "layers": layers, "filters": first.shape[0], "dim": wide.shape[0], "size": size}
    except (KeyError, IndexError, ZeroDivisionError):
        return None
