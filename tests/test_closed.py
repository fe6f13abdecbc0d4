"""Nothing that a run reads is executed, nothing it writes could be, and nothing is sent anywhere."""

import ast
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from agents import train
from robo_repr.core.config import RLConfig, load_part
from robo_repr.core.metrics import read_metrics

ROOT = Path(__file__).parents[1]
SOURCES = [
    *(path for folder in ("robo_repr", "envs", "agents", "scripts") for path in (ROOT / folder).rglob("*.py")),
    *ROOT.glob("run_*.py"),
]
# pickle: weights.py names its error class. torch.save: a bench writes a file in the authors' format to read it back.
ALLOWED = {("robo_repr/encoders/weights.py", "import pickle"), ("scripts/bench_encoders.py", "torch.save")}

# --- The code ---------------------------------------------------------------------------------------------------------------------------
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
CALLS = {
    "torch.save",
    "os.system",
    "os.popen",
    "eval",
    "exec",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.jit.load",
    "torch.hub.load",
}
METHODS = {"save_replay_buffer", "load_replay_buffer"}


def dotted(node):
    """``a.b.c`` of a name or attribute, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def forbidden(source):
    """What in a module's text could execute what a file holds, or write such a file."""
    tree, found, full = ast.parse(source), [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"import {name.name}" for name in node.names if name.name.split(".")[0] in MODULES]
            full |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"import {node.module}"] if node.module.split(".")[0] in MODULES else []
            full |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, _, rest = dotted(node.func).partition(".")
        name = ".".join(part for part in (full.get(head, head), rest) if part)
        given = {word.arg: word.value.value if isinstance(word.value, ast.Constant) else ... for word in node.keywords}
        last = name.rsplit(".", 1)[-1]
        if name in CALLS or last in METHODS:
            found.append(name)
        if name == "torch.load" and given.get("weights_only") is not True:
            found.append("torch.load without weights_only")
        if (
            name in ("numpy.load", "np.load", "numpy.save", "np.save", "numpy.savez", "np.savez")
            and given.get("allow_pickle", False) is not False
        ):
            found.append(f"{name} with pickles")
        if name in ("numpy.save", "np.save") and "allow_pickle" not in given:
            found.append(f"{name} that would pickle objects")
        if given.get("shell", False) is not False:
            found.append("shell=True")
        if last == "import_module" and not (node.args and isinstance(node.args[0], ast.Constant)):
            found.append("import of a computed name")
        if last == "save" and "model" in name.split("."):
            found.append("stable-baselines3's save")
    return found


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import pickle", "import pickle"),
        ("from pickle import loads", "import pickle"),
        ("import cloudpickle as c", "import cloudpickle"),
        ("from joblib import load", "import joblib"),
        ("import shelve, marshal", "import marshal"),
        ("import torch\ntorch.load(p)", "torch.load without weights_only"),
        ("import torch as t\nt.load(p, weights_only=False)", "torch.load without weights_only"),
        ("from torch import load\nload(p, weights_only=flag)", "torch.load without weights_only"),
        ("import torch\ntorch.save(x, p)", "torch.save"),
        ("from torch import save as put\nput(x, p)", "torch.save"),
        ("import numpy as np\nnp.load(p, allow_pickle=True)", "numpy.load with pickles"),
        ("import numpy as np\nnp.save(p, x)", "numpy.save that would pickle objects"),
        ("import yaml\nyaml.load(t, yaml.Loader)", "yaml.load"),
        ("import yaml\nyaml.unsafe_load(t)", "yaml.unsafe_load"),
        ("from yaml import full_load\nfull_load(t)", "yaml.full_load"),
        ("eval(t)", "eval"),
        ("exec(t)", "exec"),
        ("import os\nos.system(t)", "os.system"),
        ("import subprocess\nsubprocess.run(t, shell=True)", "shell=True"),
        ("self.model.save(p)", "stable-baselines3's save"),
        ("model.save_replay_buffer(p)", "model.save_replay_buffer"),
        ("import importlib\nimportlib.import_module(name)", "import of a computed name"),
    ],
)
def test_the_walker_finds_it(code, says):
    assert says in forbidden(code)


def test_the_walker_lets_honest_code_pass():
    assert not forbidden(
        "import torch, yaml, numpy as np\nnet.eval()\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)\nnp.load(p)\nagent.save(p)"
    )


def test_the_code_executes_no_data_and_writes_no_pickles():
    # `build` imports the class that a YAML of this repository names, the registries a module of theirs; tests hold both to those.
    named = {"import of a computed name"}
    found = {(str(path.relative_to(ROOT)), what) for path in SOURCES for what in forbidden(path.read_text(encoding="utf-8"))}
    places = {path for path, what in found if what in named}
    assert {pair for pair in found if pair[1] not in named} <= ALLOWED
    assert places <= {
        "robo_repr/core/config.py",
        "robo_repr/__init__.py",
        "robo_repr/data/__init__.py",
        "robo_repr/data/formats/__init__.py",
        "envs/__init__.py",
        "agents/__init__.py",
        "envs/registry.py",
        "envs/render.py",
        "scripts/catalog.py",
        "agents/cell_process.py",  # what runs a cell: a constant of each command
    }
    assert len(SOURCES) > 40


# --- What a run writes --------------------------------------------------------------------------------------------------------------------
KINDS = (".json", ".jsonl", ".yaml", ".txt", ".mp4", ".png", ".safetensors", ".lock")


def suspicious(folder):
    """Files in a run's folder that are pickles or hold one, or are of a kind that a run does not write."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        head = path.read_bytes()[:2]
        if head[:1] == b"\x80" and head[1:] and head[1] <= 5:
            found.append(f"{path.name}: a pickle")
        elif zipfile.is_zipfile(path):
            found.append(f"{path.name}: an archive")
        elif path.suffix not in KINDS and path.name != "lock" and not path.name.startswith("events.out.tfevents"):
            found.append(f"{path.name}: of another kind")
    return found


SETTINGS = {"num_envs": 4, "horizon": 12, "steps": 96, "eval_episodes": 2, "log_every": 48, "checkpoint_every": 48, "image_size": 16}


def start(folder):
    """A whole small run in this process, TensorBoard and films included."""
    agent = {**load_part("agent", "sac"), "learning_starts": 24, "net": [8, 8], "batch_size": 8}
    names = {"agent": "sac", "budget": "default", "encoder": "pixels"}
    cfg = RLConfig(**SETTINGS, encoder={**load_part("encoder", "pixels"), "size": 4}, agent=agent, names=names, run_dir=str(folder))
    cfg.validate()
    threads, handlers = torch.get_num_threads(), [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        return train.train(cfg, ["encoder=pixels"])
    finally:
        torch.set_num_threads(threads)
        for number, handler in handlers:
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run for which every way out of the machine was shut."""

    def refuse(*address, **_):
        raise AssertionError(f"a run reached for the network: {address[1:]}")

    folder = tmp_path_factory.mktemp("closed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto", "bind"):
            patch.setattr(socket.socket, name, refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket, "create_connection", refuse)
        with pytest.raises(AssertionError, match="reached for the network"):
            socket.socket().connect(("127.0.0.1", 9))  # the door is shut
        assert start(folder) == 0
    return folder


@pytest.mark.timeout(120)
def test_a_run_reaches_for_no_network_and_writes_no_pickle(run, tmp_path):
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    written = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert {".json", ".jsonl", ".yaml", ".mp4", ".safetensors"} <= written and any((run / "tb").iterdir())
    assert suspicious(run) == []
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "optimiser.json").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": 1}, tmp_path / "run" / "policy.safetensors")
    (tmp_path / "run" / "policy.pkl").write_text("{}")
    assert suspicious(tmp_path / "run") == ["optimiser.json: a pickle", "policy.pkl: of another kind", "policy.safetensors: an archive"]


def test_a_run_folder_chooses_no_code(run, tmp_path):
    """What somebody else's run folder names as its encoder is called only if this repository's own YAML files name it."""
    import yaml

    from agents.load import load_run
    from robo_repr.core.errors import UserError

    folder, trap = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(run, folder)
    parts, _, _ = load_run(folder)
    parts.env.close()
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["encoder"] = {"_target_": "os.mkdir", "path": str(trap)}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="_target_=os.mkdir is no part of this repository"):
        load_run(folder)
    assert not trap.exists()


# --- Without any network ------------------------------------------------------------------------------------------------------------------
CODE = """
import runpy, sys
try:
    runpy.run_path("run_rl.py", run_name="__main__")
except SystemExit as stop:
    print("imported:", sorted({"wandb", "requests", "httpx", "aiohttp"} & set(sys.modules)))
    print("routes:", len(open("/proc/net/route").readlines()[1:]))
    raise
"""


@pytest.mark.timeout(200)
def test_a_run_in_a_machine_without_network(tmp_path):
    """The whole command, with bundled weights, in a network namespace of its own: there is not even a route.

    No client of the web is imported either. (timm imports huggingface_hub, but that brings its client in only when it is asked for a file.)
    """
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine permits no network namespaces (unshare --map-root-user --net)")
    words = ["encoder=mvp", "budget=tiny", "steps=40", "num_envs=2", "horizon=10", "eval_episodes=1", "image_size=16", "views=front"]
    words += ["agent.learning_starts=20", "agent.net=[8]", f"run_dir={tmp_path / 'run'}"]
    result = subprocess.run(
        [*alone, sys.executable, "-c", CODE, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "routes: 0" in result.stdout and "imported: []" in result.stdout, result.stdout[-500:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert [row["policy"] for row in read_metrics(tmp_path / "run" / "evaluations.jsonl")] == ["random", "expert", "trained"]
