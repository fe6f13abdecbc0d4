"""Weight files: where they are, read without executing anything, and compared key by key."""

import argparse
import hashlib
import importlib.util
import os
import pickle
import re
import urllib.request
import warnings
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robo_repr.core.errors import UserError, unknown
from robo_repr.encoders.base import Encoder

BUNDLED = Path(__file__).parent.parent / "weights"
REGISTRY = BUNDLED / "registry.yaml"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl", ".ckpt", ".npz")
# Under these keys training scripts keep the state dict of a model.
CONTAINERS = ("model", "r3m", "state_dict", "teacher", "model_state_dict")
HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
# Keys by which a file of another method is recognised, to say so.
SIGNS = (
    ("convnet.", "r3m"),
    ("convs.0.", "curl"),
    ("storage_tokens", "dinov3"),
    ("ls1.gamma", "dinov2"),
    ("layer_scale1.", "dinov2 or dinov3"),
    ("backbone.model.", "theia"),
    ("visual.trunk.", "siglip"),
    ("text_model.", "clip or siglip"),
    ("visual.", "clip"),
    ("blocks.0.attn.qkv", "mvp or vc1"),
)

State = dict[str, Tensor]


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
        get = " ".join(how_to_get(release).rstrip(".") + "." for release in fitting[:2]) or "The registry lists none."
        have = sorted(file.stem.removeprefix(f"{name}_") for file in BUNDLED.glob(f"{name}_*.safetensors"))
        bundled = f" Bundled is variant={', '.join(have)}." if have else ""
        raise UserError(f"{what}: its weights are not on this machine. {get}{bundled} Pass {ways}.")
    weights = str(weights)
    path = Path(weights).expanduser()
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


def _of_run(folder: Path, name: str, variant: str | None) -> Source | None:
    """What a run trained, or else the weights that it used."""
    trained = sorted(folder.glob("checkpoints/*/encoder.safetensors"), key=lambda file: (len(file.parent.name), file.parent.name))
    if trained:
        return Source(trained[-1])
    try:
        used = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        encoder, weights = used["names"]["encoder"], used.get("weights")
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise UserError(
            f"weights={folder} is a folder, but not one of a run (no config.yaml). Give a weights file, or the folder of a run."
        ) from None
    if encoder != name or weights == str(folder):
        raise UserError(f"weights={folder}: that run's encoder is {encoder}, not {name}. Choose encoder={encoder}, or another run.")
    return find_weights(name, variant, weights)


def _from_hub(repository: str, mine: list[Release]) -> Path:
    """Downloads a repository's weights file into the hub's own cache, or finds it there."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    known = [str(release.url).rsplit("/", 1)[-1] for release in mine if release.hub == repository and release.url]
    files = list(dict.fromkeys([*known, *HUB_FILES]))
    for file in files:
        if isinstance(cached := try_to_load_from_cache(repository, file), str):
            return Path(cached)
    try:
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
    except RepositoryNotFoundError:
        raise UserError(f"weights={repository} is no file here and no repository of the Hugging Face hub. Check the name.") from None
    except (OSError, HfHubHTTPError) as error:
        raise UserError(
            f"weights={repository} is no file here; as a repository of the Hugging Face hub it could not be reached "
            f"({_first_line(error)}), and is not in the hub's cache. Connect to the network, or pass weights=FILE."
        ) from None
    raise UserError(f"weights={repository} has none of the files {', '.join(files)}. Download the right one and pass weights=FILE.")


def read_weights(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors and text metadata of a file; of a torch file, what lies under one of `CONTAINERS` if there is one, and no metadata.

    Raises:
        UserError: the file is damaged, is a pickle of something else than tensors (which is not executed), or holds no tensors.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a readable safetensors file ({error}): it is damaged, cut off or of another kind. Copy it again."
            ) from None
    try:
        # Training scripts keep their arguments beside the weights; a Namespace only stores values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said again by the error below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} was not loaded: it is a pickle that may run code, or no weights file at all. Expected tensors only. Nothing in it was "
            "executed; save the state dict alone, best as .safetensors."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript archive, a program beside its tensors, and was not loaded. Pass the plain tensors of the same "
                "weights, as in the Hugging Face repository (for CLIP: python scripts/fetch_weights.py clip-vitb16, or "
                "weights=openai/clip-vit-base-patch16)."
            ) from None
        raise UserError(
            f"{path} is not a readable torch weights file ({_first_line(error)}): it is damaged, cut off or of another kind. "
            "Copy or download it again."
        ) from None
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in CONTAINERS if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no table of tensors; expected a state dict, or a dict with one under 'model'. Save it that way.")
    return state, {}


def rename(state: State, *rules: tuple[str, str | None]) -> State:
    """The state dict with other keys: to each, the first rule (regular expression, replacement) that matches is applied.

    A replacement None drops the key; keys that no rule matches stay.
    """
    renamed = {}
    for key, value in state.items():
        pattern, replacement = next((rule for rule in rules if re.search(rule[0], key)), ("^", ""))
        if replacement is not None:
            renamed[re.sub(pattern, replacement, key)] = value
    return renamed


def fill(encoder: Encoder, source: Source | None, seed: int) -> None:
    """Copies a file's tensors into an encoder's network, every one of them and nothing else, and notes where they come from.

    Args:
        source: None leaves the network as it was drawn with `seed`.

    Raises:
        UserError: also when names or shapes are not those of the network, a value is not finite, or a known digest is another.
    """
    if source is None:
        encoder.trained_by = f"untrained, drawn with seed {seed}"
        return
    path, release = source.path, source.release
    state, metadata = read_weights(path)
    digest = file_sha256(path)
    if release and release.sha256 and digest != release.sha256:
        raise UserError(f"{path} is not {release.name}: its SHA-256 is {digest}, not {release.sha256}. Delete it and fetch it again.")
    what = " variant=".join(text for text in (encoder.spec.name, encoder.variant) if text)
    made_for = metadata.get("encoder", _method(encoder))
    if made_for != _method(encoder):
        raise UserError(f"{path} was saved from encoder={made_for}, not {what}. Choose that encoder, or another file.")
    if "encoder" not in metadata:  # else it has the network's own names already
        state = encoder.convert(state)
    load_strictly(encoder.net, state, path, what, release.expected_missing if release else ())
    encoder.weights_sha256 = digest
    encoder.trained_by = metadata.get("trained_by") or (f"{release.name}, {release.source}" if release else f"the file {path.name}")


def load_strictly(module: nn.Module, state: State, path: Path, what: str, expected_missing: tuple[str, ...] = ()) -> None:
    """Copies tensors into a module, or raises a UserError that says how they do not fit and leaves the module as it was."""
    expected = module.state_dict()
    problems = [
        *(f"{key} is missing" for key in sorted(expected.keys() - state.keys() - set(expected_missing))),
        *(f"{key} is unknown" for key in sorted(state.keys() - expected.keys())),
        *(
            f"{key} has the shape {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in sorted(expected.keys() & state.keys())
            if state[key].shape != expected[key].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        likely = next((names for sign, names in SIGNS if any(sign in key for key in state)), None)
        hint = f" By its keys it is made for encoder={likely}." if likely and what.split()[0] not in likely else ""
        raise UserError(
            f"{path} is of another architecture than {what}: {'; '.join(problems[:3])}{more}.{hint} Choose the variant= that the file was "
            "made for, or another file. (Files for other picture sizes are refused too.)"
        )
    floats = [key for key, value in expected.items() if value.is_floating_point() and key in state]
    broken = sorted(key for key in floats if not state[key].is_floating_point() or not state[key].isfinite().all())
    if broken:
        raise UserError(f"{path} has values that are not finite numbers in {', '.join(broken[:3])}: the file is broken. Use another one.")
    module.load_state_dict(state, strict=not expected_missing)  # also turns half precision back into the module's own


def save_weights(encoder: Encoder, path: Path, metadata: dict[str, str]) -> None:
    """Writes an encoder's network as safetensors: what it learnt in fp16, buffers and position tables as they are."""
    learnt = {key for key, _ in encoder.net.named_parameters() if not key.endswith("pos_embed")}
    state = {key: value.half() if key in learnt else value for key, value in encoder.net.state_dict().items()}
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(save(state, {"encoder": _method(encoder), "variant": str(encoder.variant), **metadata}))
    beside.replace(path)


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _method(encoder: Encoder) -> str:
    """Whose weights it takes: the module's name, which the untrained control shares with mvp."""
    return type(encoder).__module__.rsplit(".", 1)[-1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
