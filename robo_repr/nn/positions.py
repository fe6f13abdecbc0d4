"""The fixed 2-D sine-cosine position table of MAE.

Source: He et al. 2022, https://arxiv.org/abs/2111.06377; facebookresearch/mae, util/pos_embed.py.
"""

import torch
from torch import Tensor


def sincos_2d(dim: int, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """Positions (prefix + rows * columns, dim) float32 of a grid, row by row; rows of zeros for `prefix` leading tokens.

    The first half of a vector encodes the column (the official code calls it "h"), the second the row; each half is
    [sin(x w_i), cos(x w_i)] with w_i = 10000^(-i / (dim / 4)).

    Raises:
        ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"Position vectors of length {dim} are not possible; the length must be a multiple of 4.")
    # float64 as in the official code: in float32 the high rows differ from it in the last digits.
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    table = torch.cat([half for angle in angles for half in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(prefix, dim), table.float()])
