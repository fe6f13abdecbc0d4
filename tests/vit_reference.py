"""A ViT and MAE's decoder written from the papers in plain torch operations, to compare ours with."""

import torch
import torch.nn.functional as F


def norm(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def blocks(x, state, prefix, heads):
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{prefix}."))
    for i in range(depth):
        name = f"{prefix}.{i}"
        batch, length, dim = x.shape
        qkv = linear(norm(x, state, f"{name}.norm1"), state, f"{name}.attn.qkv")
        q, k, v = (part.view(batch, length, heads, dim // heads).transpose(1, 2) for part in qkv.split(dim, dim=2))
        attention = ((q @ k.transpose(2, 3)) / (dim // heads) ** 0.5).softmax(dim=-1)
        x = x + linear((attention @ v).transpose(1, 2).reshape(batch, length, dim), state, f"{name}.attn.proj")
        hidden = F.gelu(linear(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
        x = x + linear(hidden, state, f"{name}.mlp.fc2")
    return x


def embed(pixels, state):
    """Patches with their positions, without class token."""
    weight = state["patch_embed.proj.weight"]
    return (
        F.conv2d(pixels, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)
        + state["pos_embed"][:, 1:]
    )


def encode(pixels, state, heads, keep=None):
    """The normalised sequence, class token first, of all patches or of those in `keep`."""
    tokens = embed(pixels, state)
    if keep is not None:
        tokens = torch.stack([row[chosen] for row, chosen in zip(tokens, keep, strict=True)])
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(tokens), -1, -1)
    return norm(blocks(torch.cat([first, tokens], dim=1), state, "blocks", heads), state, "norm")


def mae(pixels, noise, ratio, encoder_state, heads, decoder_state, decoder_heads):
    """Loss, predictions and mask of MAE with per-patch normalised targets."""
    batch, length = noise.shape
    kept = int(length * (1 - ratio))
    order = noise.argsort(dim=1)
    latent = linear(encode(pixels, encoder_state, heads, order[:, :kept]), decoder_state, "decoder_embed")
    full = decoder_state["mask_token"].repeat(batch, length, 1)
    mask = torch.ones(batch, length)
    for row in range(batch):
        full[row, order[row, :kept]] = latent[row, 1:]
        mask[row, order[row, :kept]] = 0
    sequence = torch.cat([latent[:, :1], full], dim=1) + decoder_state["decoder_pos_embed"]
    decoded = norm(blocks(sequence, decoder_state, "decoder_blocks", decoder_heads), decoder_state, "decoder_norm")
    predictions = linear(decoded, decoder_state, "decoder_pred")[:, 1:]
    side = int(length**0.5)
    patch = pixels.shape[-1] // side
    losses = []
    for row in range(batch):
        for i in range(length):
            top, left = i // side * patch, i % side * patch
            wanted = pixels[row, :, top : top + patch, left : left + patch].permute(1, 2, 0).flatten()
            wanted = (wanted - wanted.mean()) / (wanted.var(correction=1) + 1e-6).sqrt()
            losses.append((predictions[row, i] - wanted).square().mean() * mask[row, i])
    return torch.stack(losses).sum() / mask.sum(), predictions, mask
