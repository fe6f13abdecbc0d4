"""What a policy is told of its cameras: their poses, or the rays along which they look."""

import torch
from torch import Tensor

from agents.eyes import Eyes
from robo_repr.core.errors import UserError, unknown
from robo_repr.encoders.base import EncoderSpec
from robo_repr.encoders.readout import GRID, Readout

KINDS = ("false", "true", "rays")


class CameraInput:
    """Camera poses to one vector per world.

    ``True`` gives the poses as they are. ``"rays"`` gives, for each view, the ray through the centre of each cell of its read-out in
    Pluecker coordinates: the unit direction d in the world's frame and the moment p x d, p any point on it. Directions alone would leave
    out where the camera stands; poses alone leave it to the policy to find out which way a cell looks. Of a camera that moves along one of
    its rays, this ray stays. The moment is about the world's origin, which is the base of the native tasks' arm: state and actions are told
    in the same frame, and in metres its length, the ray's distance from the base, is about 1 without any scale.

    The cells are those of ``tokens``, or the 4 x 4 of ``grid4``; of ``keypoints``, whose points move about, they are 4 x 4 too. They follow
    the picture through the encoder's resizing and cropping, and through the pooling of tokens to 4 x 4, whose cells overlap. A token is
    taken to stand for its equal share of what the encoder sees. That is exact for patches; convolutions look up to half a cell of 7 x 7
    beside it, or further inwards where nothing is padded (curl): alike for all cells and pictures, so a policy can learn it. Of a stack of
    frames, the rays are the newest one's.

    The map of rays is that of V. Sitzmann et al. 2021, https://arxiv.org/abs/2106.02634; policies got it in arXiv 2510.02268.

    Args:
        kind: ``False`` (nothing), ``True`` or ``"rays"``.
        eyes: what the policy sees through.
        picture: height and width of the cameras' pictures in pixels.

    Attributes:
        size: length of the vector: 0, 8 V, or 6 K V for K cells.

    Raises:
        UserError: another kind, no picture, or rays for a read-out that does not say where things are.
    """

    def __init__(self, kind: bool | str, eyes: Eyes, picture: tuple[int, int]):
        if kind not in (False, True, "rays"):
            raise unknown("camera_input", str(kind), KINDS)
        name = eyes.encoder.spec.name
        if kind and not eyes.dim:
            raise UserError(
                f"camera_input={str(kind).lower()} tells the policy of its cameras, but with encoder={name} it has none. Leave "
                "camera_input out, or choose an encoder of pictures."
            )
        self._offsets: Tensor | None = None
        self.size = 8 * len(eyes.views) if kind else 0
        if kind == "rays":
            if eyes.readout.name == "pooled":
                raise UserError(
                    "camera_input=rays gives a ray for each cell of the read-out, but readout=pooled has no places. Use readout=grid4, "
                    "keypoints or tokens, or camera_input=true for the cameras' poses."
                )
            if eyes.readout.grid is None:
                raise UserError(
                    f"camera_input=rays gives a ray for each cell of the read-out, but encoder={name} has no tokens, so no read-out of it "
                    "has places. Choose an encoder with tokens, such as mvp, or camera_input=true for the cameras' poses."
                )
            self._offsets = cell_offsets(eyes.readout, eyes.encoder.spec, picture)
            self.size = 6 * len(self._offsets) * len(eyes.views)

    def __call__(self, camera: Tensor) -> Tensor:
        """(N, size) float32, view by view, of world poses (N, V, 8); rays row by row, direction before moment."""
        told = camera.float()
        if not self.size:
            return told.new_zeros((len(told), 0))
        return (told if self._offsets is None else rays(told, self._offsets)).flatten(1)


def cell_offsets(readout: Readout, spec: EncoderSpec, picture: tuple[int, int]) -> Tensor:
    """Where in the picture a read-out's cells have their centres, row by row: (K, 2) float32, how far right and up of the picture's
    middle, as shares of half its height."""
    assert readout.grid is not None
    resized, first = spec.fit(*picture)
    along = []
    for cells, seen, start, whole in zip(readout.grid, spec.size, first, resized, strict=True):
        centres = (torch.arange(cells) + 0.5) / cells
        if readout.name != "tokens":
            centres = torch.nn.functional.adaptive_avg_pool1d(centres[None], GRID)[0]  # as `Readout` pools
        along.append(2 * (start + seen * centres) / whole - 1)
    rows, columns = along
    down, right = torch.cartesian_prod(rows, columns).unbind(1)
    return torch.stack([right * picture[1] / picture[0], -down], dim=1)


def rays(poses: Tensor, offsets: Tensor) -> Tensor:
    """Rays of cameras through points of their pictures, in Pluecker coordinates.

    Args:
        poses: (..., 8) in the world: position in metres, quaternion wxyz (looks along -z, y up), vertical field of view in degrees.
        offsets: (K, 2) as `cell_offsets` gives them.

    Returns:
        (..., K, 6): unit direction, and moment about the world's origin in metres.
    """
    position, scalar, vector, fov = poses[..., None, :].split([3, 1, 3, 1], dim=-1)
    sideways = offsets.to(poses) * torch.tan(torch.deg2rad(fov) / 2)
    inside = torch.cat([sideways, -torch.ones_like(sideways[..., :1])], dim=-1)
    inside = inside / inside.norm(dim=-1, keepdim=True)
    position, vector = position.expand_as(inside), vector.expand_as(inside)
    turn = 2 * torch.linalg.cross(vector, inside)
    direction = inside + scalar * turn + torch.linalg.cross(vector, turn)
    return torch.cat([direction, torch.linalg.cross(position, direction)], dim=-1)
