"""Encoding camera pictures: ours against the recipe that the authors' code leaves to its users. Takes about two minutes.

    python scripts/bench_encoders.py [--pairs 5] [--json FILE]

official_recipe_images: pictures per second of MVP's ViT-S/16 at 224 pixels, from 32 uint8 pictures of 84 x 84, two threads. Ours is
`load_encoder` on the batch. The recipe: each picture through PIL and torchvision's transforms (bilinear resize, to tensor, ImageNet mean
and deviation), stacked, then the plain timm ViT's class token. Both sides load one file in the official layout, with random weights:
the speed is that of any.

Before the clock starts, the features are compared. On pictures of 224 pixels, which nothing resizes, they are equal but for the last bits.
On pictures of 84 pixels PIL rounds what it resized to bytes, and we do not: the difference is printed and bounded.

The two sides alternate in one process, after a warm-up of each.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from robo_repr.core import bench

VARIANT, BATCH, SOURCE, SIZE, THREADS = "vits-mae-hoi", 32, 84, 224, 2
SAME_RULE, ROUNDED_RULE = 1e-4, 1e-2  # largest relative error of the features
CALLS = 2  # in one measurement


def make_vit():
    """timm's own ViT-S/16 as MVP has it: 12 heads, norms with 1e-6."""
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    return VisionTransformer(
        img_size=SIZE, patch_size=16, embed_dim=384, depth=12, num_heads=12, num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    )


def write_official_file(path: Path) -> None:
    """Random weights in the layout of the released files. The norms' weights are spread, so that each of them counts."""
    import torch

    torch.manual_seed(0)
    state = make_vit().state_dict()
    for value in state.values():
        if value.ndim == 1:
            value.add_(0.1 * torch.randn_like(value))
    torch.save({"model": state}, path)


def make_peer(path: Path):
    """The recipe: uint8 pictures (B, 3, H, W) to class tokens (B, 384)."""
    import torch
    from PIL import Image
    from torchvision import transforms

    vit = make_vit().eval()
    vit.load_state_dict(torch.load(path, weights_only=True)["model"])
    transform = transforms.Compose(
        [
            transforms.Resize((SIZE, SIZE), transforms.InterpolationMode.BILINEAR),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    @torch.no_grad()
    def encode(images):
        pictures: list[Any] = [transform(Image.fromarray(image)) for image in images.permute(0, 2, 3, 1).numpy()]
        return vit.forward_features(torch.stack(pictures))[:, 0]

    return encode


def relative_error(ours, peer) -> float:
    """Largest |ours - peer| of a picture's feature over |peer|."""
    return float(((ours - peer).norm(dim=1) / peer.norm(dim=1)).max())


def pictures_per_second(encode, images) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        encode(images)
    return CALLS * len(images) / (time.perf_counter() - began)


def main() -> None:
    args = bench.parse(bench.parser(__doc__, pairs=7))

    import torch

    from envs import make_env
    from robo_repr import load_encoder

    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official.pth"
        write_official_file(path)
        ours, peer = load_encoder("mvp", variant=VARIANT, weights=str(path)), make_peer(path)
    pictures = {}
    for size in (SOURCE, SIZE):
        env = make_env("reach", num_envs=BATCH, views=["front"], image_size=size)
        pictures[size] = env.reset()[0]["images"][:, 0].clone()
        env.close()
    errors = {size: relative_error(ours(images).pooled, peer(images)) for size, images in pictures.items()}  # and the warm-up
    print(f"relative error of the features: {errors[SIZE]:.1e} without a resize, {errors[SOURCE]:.1e} where PIL rounds to bytes")
    assert errors[SIZE] < SAME_RULE and errors[SOURCE] < ROUNDED_RULE, f"features differ: {errors}"

    sides = {"ours": lambda: pictures_per_second(ours, pictures[SOURCE]), "peer": lambda: pictures_per_second(peer, pictures[SOURCE])}
    rates = []
    for pair in range(args.pairs):
        order = ("ours", "peer") if pair % 2 else ("peer", "ours")
        measured = {name: sides[name]() for name in order}
        rates.append((measured["ours"], measured["peer"]))
    figures = bench.Bench(args.pairs, relative_error={"same_rule": errors[SIZE], "resized": errors[SOURCE]})
    figures.add("official_recipe_images", "pictures/s", rates)
    figures.finish(args.json)


if __name__ == "__main__":
    main()
