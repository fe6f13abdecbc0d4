"""Under which cameras a policy is evaluated: levels, presets, single factors and controls, as `ViewpointConfig` asks for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envs.cameras import FACTORS, LEVELS, parse_camera
from robo_repr.core.config import ViewpointConfig, folder_text, short_name, shortly
from robo_repr.core.errors import UserError, unknown

CONTROLS = ("together", "alone", "background", "calibration")
MOST_OF_ONE = 3  # factors and controls are tried at the highest level asked for that is not beyond this one


@dataclass(frozen=True)
class Condition:
    """Cameras under which episodes are run.

    Attributes:
        name: such as "L3", "L3:azimuth", "vista:arc", "alone:front".
        kind: "level", "preset", "factor" or "control".
        level: of a level, its number.
        camera, appearance: as `make_env` takes them.
        calibration: by how many degrees and centimetres the policy is misled about its cameras.
        manifest: the SHA-256 of the manifest that `camera` names; None where it names none.
    """

    name: str
    kind: str
    level: int | None
    camera: str
    appearance: str
    calibration: float = 0.0
    manifest: str | None = None

    @property
    def file(self) -> str:
        """The name as part of a file's."""
        return short_name(folder_text(self.name))


def find_conditions(cfg: ViewpointConfig, views: Sequence[str], appearance: str, camera_input: bool) -> list[Condition]:
    """The conditions that are asked for, in the order levels, presets, factors, controls; none of them twice.

    Args:
        views: cameras that the policy sees through; none for one that looks at no pictures.
        appearance: of the run that is evaluated; ``cfg.appearance`` goes before it.
        camera_input: whether the policy is told where its cameras are.

    Raises:
        UserError: a name or a number that is not possible, or a control that makes no sense here. Whether a camera setting fits the task
            and its cameras is known to `make_env`.
    """
    levels = _levels(cfg.levels)
    presets, factors, controls = (_names(key, getattr(cfg, key)) for key in ("presets", "factors", "controls"))
    look = cfg.appearance or appearance
    found = [Condition(f"L{level}", "level", level, shell(level), look) for level in levels]
    for preset in presets:
        setting = parse_camera("presets", preset)
        if setting.is_schedule:
            raise UserError(f"presets={preset} changes over a training, but an evaluation is none. Name one level, such as {preset[:2]}.")
        found.append(Condition(_preset_name(preset), "preset", None, preset, look, manifest=setting.sha256))
    level = max((level for level in levels if 0 < level <= MOST_OF_ONE), default=MOST_OF_ONE)
    for factor in factors:
        if factor not in FACTORS:
            raise unknown("factors", factor, FACTORS)
        found.append(Condition(f"L{level}:{factor}", "factor", None, f"L{level}:{factor}:shell", look))
    for control in controls:
        if control not in CONTROLS:
            raise unknown("controls", control, CONTROLS)
        found += _control(control, cfg.calibration, level, views, look, camera_input)
    if not found:
        raise UserError("levels=[] asks for nothing. Name a level such as levels=[0,3], or a preset, factor or control.")
    unlike = {(each.camera, each.appearance, each.calibration): each for each in reversed(found)}  # the first of each stays
    return [each for each in found if unlike[each.camera, each.appearance, each.calibration] is each]


def shell(level: int) -> str:
    """The camera setting that a level is evaluated at: moved further than at the level below."""
    return f"L{level}:shell" if level else "L0"


def _preset_name(preset: str) -> str:
    """The camera setting itself, but for those that are called like a level or factor, whose shells are other cameras."""
    level, _, factor = preset.partition(":")
    return f"{preset} (preset)" if level in LEVELS and factor in ("", *FACTORS) else preset


def _control(control: str, error: float, level: int, views: Sequence[str], look: str, camera_input: bool) -> list[Condition]:
    if not views:
        raise UserError(
            f"controls={control} changes what cameras show, but this policy looks at no pictures: cameras change nothing for it. Leave "
            "controls out."
        )
    camera = shell(level)
    if control == "together":
        return [Condition(control, "control", None, f"{camera}@together", look)]
    if control == "alone":
        return [Condition(f"{control}:{view}", "control", None, f"{camera}@{view}", look) for view in views]
    if control == "background":
        return [Condition(control, "control", None, camera, "plain" if look == "random" else "random")]
    if not camera_input:
        raise UserError(
            "controls=calibration misleads a policy about where its cameras are, but this one is not told of them. Leave it out, or train "
            "a policy with camera_input=rays or camera_input=true."
        )
    if not error:
        raise UserError("calibration=0 misleads nobody. Give degrees and centimetres, such as calibration=2, or leave the control out.")
    return [Condition(f"{control}:{error:g}", "control", None, camera, look, error)]


def _levels(value: Any) -> list[int]:
    levels = value if isinstance(value, list) else [value]
    for level in levels:
        if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level < len(LEVELS):
            raise UserError(
                f"levels={shortly(value)} is not possible: {shortly(level)} is no level. Levels are whole numbers from 0, the nominal "
                f"cameras, to {len(LEVELS) - 1}, such as levels=[0,1,3]."
            )
    return sorted(set(levels))


def _names(key: str, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [] if value is None else [value]
    for name in names:
        if not isinstance(name, str) or not re.search(r"\S", name):
            raise UserError(
                f"{key}={shortly(value)} is not possible: {shortly(name)} is no name. Write one or a list, such as {key}=[NAME,NAME]."
            )
    return names
