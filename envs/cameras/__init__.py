"""Cameras that move: poses as deviations from a nominal one, levels, presets of other benchmarks, and lists of views."""

from envs.cameras.levels import LEVELS, MOUNT_LEVELS, Level
from envs.cameras.manifest import read_manifest, write_manifest
from envs.cameras.pose import (
    FACTORS,
    Factors,
    NominalCamera,
    apply_factors,
    find_factors,
    from_spherical,
    matrix_to_quaternion,
    multiply_quaternions,
    neutral,
    nominal_cameras,
    quaternion_to_matrix,
    to_spherical,
    to_world,
)
from envs.cameras.presets import PRESETS
from envs.cameras.samplers import Drawn, Occasion, Sampler
from envs.cameras.setting import CameraSetting, parse_camera

__all__ = [
    "FACTORS",
    "LEVELS",
    "MOUNT_LEVELS",
    "PRESETS",
    "CameraSetting",
    "Drawn",
    "Factors",
    "Level",
    "NominalCamera",
    "Occasion",
    "Sampler",
    "apply_factors",
    "find_factors",
    "from_spherical",
    "matrix_to_quaternion",
    "multiply_quaternions",
    "neutral",
    "nominal_cameras",
    "parse_camera",
    "quaternion_to_matrix",
    "read_manifest",
    "to_spherical",
    "to_world",
    "write_manifest",
]
