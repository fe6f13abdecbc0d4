"""Where weights are: the registry of published files, what is on this machine, and the hub."""

import importlib.util
import os
import re
import urllib.request
from dataclasses import MISSING, dataclass, fields
from http.client import HTTPException
from pathlib import Path

import yaml

from robo_repr.core.errors import UserError, unknown

BUNDLED = Path(__file__).parent.parent / "weights"
REGISTRY = BUNDLED / "registry.yaml"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl", ".ckpt", ".npz")
HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Release:
    """One published weights file, an entry of robo_repr/weights/registry.yaml.

    Attributes:
        name: what ``weights=`` and scripts/fetch_weights.py take.
        encoder, variant: what it is loaded into.
        url, mirrors: addresses, None where it never was public or lies in a package.
        hub: repository on the Hugging Face hub.
        package, file: Python package that contains it, and its path there.
        sha256, md5: hex digits, None where unknown.
        megabytes: size, None where unknown.
        licence, source: as far as known.
        status: ``alive``, ``dead``, ``private`` (never public) or ``unverified`` (the authors' address, not tried from here).
        since: dead since when, as far as known.
        alternatives: what to use when it cannot be had.
        expected_missing: keys of the network that the file lacks; they keep their untrained values.
        note: what could not be verified, and quirks.
    """

    name: str
    encoder: str
    variant: str | None
    licence: str
    source: str
    status: str
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    hub: str | None = None
    package: str | None = None
    file: str | None = None
    sha256: str | None = None
    md5: str | None = None
    megabytes: float | None = None
    since: str | None = None
    alternatives: tuple[str, ...] = ()
    expected_missing: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Source:
    """A weights file that exists, and the registry's entry where it has one."""

    path: Path
    release: Release | None = None


def releases() -> dict[str, Release]:
    """The registry by name, in its order.

    Raises:
        UserError: an entry with unknown or missing fields.
    """
    known = {field.name: field.default is MISSING for field in fields(Release)}
    found = {}
    for name, entry in yaml.safe_load(REGISTRY.read_text(encoding="utf-8")).items():
        for key in entry:
            if key not in known or key == "name":
                raise unknown(f"{REGISTRY.name}, {name}: field", key, known)
        missing = [key for key, needed in known.items() if needed and key != "name" and key not in entry]
        if missing:
            raise UserError(f"{REGISTRY.name}, {name}: {', '.join(missing)} is missing. Every entry needs it.")
        lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
        found[name] = Release(name=name, **{**entry, **lists})
    return found


def weights_folder() -> Path:
    """Where fetched files lie: $ROBO_WEIGHTS, or ~/.cache/robo_repr."""
    return Path(os.environ.get("ROBO_WEIGHTS") or Path.home() / ".cache" / "robo_repr").expanduser()


def fetched_file(release: Release) -> Path:
    """Where scripts/fetch_weights.py puts a release; the file need not exist."""
    suffix = next((suffix for suffix in SUFFIXES if (release.url or "").endswith(suffix)), ".pth")
    return weights_folder() / f"{release.name}{suffix}"


def bundled_file(name: str, variant: str) -> Path:
    """The file of an encoder's bundled weights, which need not exist."""
    return BUNDLED / f"{name}_{variant}.safetensors"


def at_hand(release: Release) -> Path | None:
    """The release's file on this machine, fetched or inside its package; None where it is not."""
    if release.package:
        spec = importlib.util.find_spec(release.package)
        path = Path(next(iter(spec.submodule_search_locations or [""]))) / str(release.file) if spec else None
    else:
        path = fetched_file(release)
    return path if path is not None and path.is_file() else None


def how_to_get(release: Release) -> str:
    """One sentence: the way to a release that is not at hand."""
    instead = f" Instead: {'; '.join(release.alternatives)}." if release.alternatives else ""
    if release.package:
        return f"{release.name} comes with the Python package {release.package}: run 'make setup'."
    if release.status == "private" or not release.url:
        return f"{release.name} was never public.{instead}"
    if release.status == "dead":
        return f"{release.name} can no longer be downloaded{f' (dead since {release.since})' if release.since else ''}.{instead}"
    return f"Fetch it with: python scripts/fetch_weights.py {release.name}"


def find_weights(name: str, variant: str | None, weights: str | None) -> Source | None:
    """The file that `weights` means, or None for ``"random"``.

    Args:
        name: the encoder's.
        variant: its size, None where it has one only.
        weights: None for what is bundled or was fetched, ``"random"``, a name of the registry, a file, the folder of a run, or a
            repository of the Hugging Face hub (owner/name, which is downloaded).

    Raises:
        UserError: there is no such file; the text names the ways to get one.
    """
    what = f"encoder={name}" + (f" variant={variant}" if variant else "")
    mine = [release for release in releases().values() if release.encoder == name]
    fitting = [release for release in mine if release.variant == variant]
    ways = "weights=FILE (as the authors released it, or .safetensors), or weights=random for an untrained network"
    if weights == "random":
        return None
    if weights is None:
        if variant and (path := bundled_file(name, variant)).is_file():
            return Source(path)
        for release in fitting:
            if path := at_hand(release):
                return Source(path, release)
        get = " ".join(how_to_get(release).rstrip(".") + "." for release in fitting[:1]) or "The registry lists none."
        have = sorted(file.stem.removeprefix(f"{name}_") for file in BUNDLED.glob(f"{name}_*.safetensors"))
        bundled = f" Bundled is variant={', '.join(have)}." if have else ""
        raise UserError(f"{what}: its weights are not on this machine. {get}{bundled} Pass {ways}.")
    weights = str(weights)
    path = _path(weights)
    if (release := releases().get(weights)) and not path.exists():
        if release not in fitting:
            size = f" variant={release.variant}" if release.variant else ""
            raise UserError(f"weights={weights} is for encoder={release.encoder}{size}, not for {what}. Choose that, or other weights.")
        if found := at_hand(release):
            return Source(found, release)
        raise UserError(f"weights={weights} is not on this machine. {how_to_get(release)}")
    if path.is_dir():
        return _of_run(path, name, variant)
    if path.is_file():
        return Source(path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", weights) and path.suffix not in SUFFIXES:
        found = _from_hub(weights, mine)
        # A repository may hold the same weights in another layout than the release's own address.
        return Source(found, next((one for one in fitting if one.hub == weights and str(one.url).endswith(f"/{found.name}")), None))
    names = ", ".join(release.name for release in mine)
    registry = f" The registry's names for {name}: {names}." if names else ""
    raise UserError(f"weights={weights} does not exist. Pass {ways}; a run folder or owner/name of the hub will do too.{registry}")


def is_file(path: object) -> bool:
    """Whether a text or path names a file that may be looked up; no other text is a mistake."""
    try:
        return isinstance(path, str | Path) and Path(path).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _path(weights: str) -> Path:
    """The path that a text may be, or a UserError where no path can be looked up under it."""
    try:
        path = Path(weights).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # too long, not to be read, of a user that does not exist
        reason = getattr(error, "strerror", None) or error
        shown = weights if len(weights) <= 60 else f"{weights[:57]}..."
        raise UserError(
            f"weights={shown!r} cannot be looked up ({reason}). Pass weights=FILE with a path that you may read, or weights=random for an "
            "untrained network."
        ) from None
    return path


def _of_run(folder: Path, name: str, variant: str | None) -> Source | None:
    """What a run trained, or else the weights that it used."""
    trained = sorted(folder.glob("checkpoints/*/encoder.safetensors"), key=lambda file: (len(file.parent.name), file.parent.name))
    if trained:
        return Source(trained[-1])
    try:
        used = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        encoder, weights = used["names"]["encoder"], used.get("weights")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise UserError(
            f"weights={folder} is a folder, but not one of a run (no readable config.yaml). Give a weights file, or the folder of a run."
        ) from None
    if encoder != name or weights == str(folder):
        raise UserError(f"weights={folder}: that run's encoder is {encoder}, not {name}. Choose encoder={encoder}, or another run.")
    return find_weights(name, variant, weights)


def _from_hub(repository: str, mine: list[Release]) -> Path:
    """Downloads a repository's weights file into the hub's own cache, or finds it there."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    known = [str(release.url).rsplit("/", 1)[-1] for release in mine if release.hub == repository and release.url]
    files = list(dict.fromkeys([*known, *HUB_FILES]))
    try:
        for file in files:
            if isinstance(cached := try_to_load_from_cache(repository, file), str):
                return Path(cached)
        # Without a network, the hub's own client tries for half a minute.
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
        for file in files:
            try:
                return Path(hf_hub_download(repository, file))
            except EntryNotFoundError:
                continue
    except GatedRepoError:
        raise UserError(
            f"weights={repository}: its owners want a licence accepted first. Do so on the repository's page, run 'hf auth login', "
            "and try again."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"weights={repository} is no file here and no repository of the Hugging Face hub. Check the name.") from None
    except (OSError, HTTPException, HfHubHTTPError) as error:
        raise UserError(
            f"weights={repository} is no file here; as a repository of the Hugging Face hub it could not be reached "
            f"({error}), and is not in the hub's cache. Connect to the network, or pass weights=FILE."
        ) from None
    raise UserError(f"weights={repository} has none of the files {', '.join(files)}. Download the right one and pass weights=FILE.")
