"""R3M: a ResNet pretrained on Ego4D clips with time contrast and language, seen through its average pool.

Paper: Nair et al. 2022, https://arxiv.org/abs/2203.12601. Code: github.com/facebookresearch/r3m (r3m/models/models_r3m.py); the body here
is torchvision's, as there. The networks that rate language during pretraining are no part of the encoder.
"""

from typing import Any

from torch import Tensor, nn

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import State, fill, rename
from robo_repr.nn.untrained import untrained

# Length of the feature.
VARIANTS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}


class R3M(Encoder):
    """The encoder: pooled (B, 512 or 2048), all at least 0, is the mean of the last map; tokens (B, 49, same) are that 7 x 7 map.

    The authors' rule for pictures: shorter side to 256, the middle 224 x 224; pictures of 224 x 224 pass as they are. The authors' class
    takes 0..255 only; here uint8 and float 0..1 mean the same picture.

    Args:
        variant: a key of `VARIANTS`.
        weights: None for the public file of that size if it was fetched, ``"random"``, a name of the registry (``r3m-resnet50-paper`` is
            the one behind the paper's tables), or a file in a layout of the authors'.
        seed: draws the untrained weights.
    """

    def __init__(self, variant: str = "resnet50", weights: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        source = find_weights("r3m", variant, weights)
        dim = VARIANTS[variant]
        super().__init__(EncoderSpec("r3m", (224, 224), dim, token_dim=dim, grid=(7, 7), resize=256, untouched=True), variant)
        self.net: Any = untrained(lambda: build(variant), seed)
        fill(self, source, seed)

    def convert(self, state: State) -> State:
        """From the training file, module.convnet.*, and from the authors' file on the hub, convnet.*."""
        return rename(state, (r"^(module\.)?lang_(enc|rew)\.", None), (r"^(module\.)?convnet\.", ""))

    def blocks(self) -> list[nn.Module]:
        return [block for stage in (self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4) for block in stage]

    def encode(self, images: Tensor) -> Features:
        net = self.net
        maps = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        maps = net.layer4(net.layer3(net.layer2(net.layer1(maps)))).float()  # float32 also under autocast
        return Features(maps.mean(dim=(2, 3)), maps.flatten(2).transpose(1, 2))


def build(variant: str) -> nn.Module:
    """torchvision's ResNet of that name, without its classifier."""
    from torchvision.models import resnet

    net = getattr(resnet, variant)(weights=None)
    net.fc = nn.Identity()
    return net
