"""Rubbish at the front door: whatever the settings are, a run begins or one paragraph says why not."""

import dataclasses
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agents.parts import build_parts
from robo_repr.core.cli import compose, main
from robo_repr.core.config import RLConfig, config_names, folder_of, load_part, run_name
from robo_repr.core.errors import UserError

PARTS = [f"{group}.{key}" for group in ("agent", "encoder") for name in config_names(group) for key in load_part(group, name)]
KEYS = [item.name for item in dataclasses.fields(RLConfig)]
GROUPS = [f"{group}={name}" for group in ("encoder", "agent", "budget") for name in config_names(folder_of(RLConfig, group))]


def listed(text):
    return st.sampled_from(text.split())


numbers = st.one_of(
    listed("0 -0 -1 1e999 -1e999 nan inf 1e5 1_000 0x10 1e-400 .5 ٣ 1e-9 true"),
    st.sampled_from(["9" * 30, "9" * 5000, "[" * 999]),
    st.integers().map(str),
    st.floats().map(str),
)
references = listed(
    "${seed} ${nope} ${agent} ${encoder} ${agent.gamma} ${oc.env:HOME} ${oc.env:NOT_THERE} ${oc.decode:'[1'} ${now:%Y} ${hydra:job.num} "
    "${hydra:runtime.cwd} ${ ${} ${.} ${..} ${steps}${seed} x${tag}x ${${task}} \\${seed} ${oc.create:{}} ${agent.net[0]} ${views[0]} "
    "${oc.dict.keys:agent} ??? ${tag} ${names} ${hydra} ${.seed} ${oc.select:x}"
)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
quoted = st.builds("{0}{1}{0}".format, st.sampled_from(["'", '"', "\\'", ""]), texts)
words = st.one_of(numbers, references, texts, quoted, st.sampled_from(["true", "null", "no", "a=b", "../..", "/", "~", "{}", "[]", "''"]))
nested = st.recursive(
    words,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.dictionaries(st.sampled_from(["a", "_target_", "1", "null", "${seed}"]), inner, max_size=2).map(
            lambda items: f"{{{','.join(f'{key}:{value}' for key, value in items.items())}}}"
        ),
    ),
    max_leaves=5,
)
sweeps = st.one_of(
    st.lists(words, min_size=2, max_size=3).map(",".join),
    listed("range(0,2) range(3) range(1,0) range(0,1,0) range(0,1e9) range(0,999999999) range(0,nan,1) interval(0,1) choice() choice(a,b)"),
    listed(
        "shuffle(a,b) glob(*) glob(p*) glob([a,b],exclude=a) sort(2,1) tag(x,choice(a,b)) int(a) str(1) float(x) json_str([1]) range(a,b)"
    ),
)
names = st.one_of(
    st.sampled_from([*KEYS, *PARTS]),
    st.sampled_from(KEYS),
    listed("encoder agent budget . agent. .agent agent..gamma agent.net.0 agent.net[0] names.encoder encoder@x encoder@agent /task a:b"),
    listed("hydra hydra.run.dir hydra/launcher hydra.sweep.dir defaults _target_ agent._target_ agent@encoder:x +x ~x"),
    st.one_of(texts, st.sampled_from(["", " "])),
)
overrides = st.one_of(
    st.sampled_from(GROUPS),
    st.builds("{}={}".format, names, st.one_of(words, nested, sweeps)),
    texts,
)


@pytest.fixture
def front_door(monkeypatch, tmp_path, capsys):
    """Calls the command in this process; returns exit code, standard error and the configurations that would have run."""
    monkeypatch.chdir(tmp_path)

    def call(arguments):
        ran = []
        monkeypatch.setattr(sys, "argv", ["run_rl.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            main(RLConfig, lambda cfg, words: ran.append(run_name(cfg, words)) or 0)
        return stop.value.code, capsys.readouterr().err, ran

    return call


def works_or_one_paragraph(code, err, ran):
    assert (code == 0 and err == "") or (code == 2 and not ran), (code, err)
    if code:
        assert len(err.splitlines()) == 1 and len(err.strip()) > 30, err
    assert "Traceback" not in err


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(overrides, min_size=1, max_size=4))
def test_any_overrides_work_or_get_one_paragraph(front_door, arguments):
    works_or_one_paragraph(*front_door(arguments))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(overrides, st.builds("{}={}".format, st.sampled_from(KEYS), sweeps)), min_size=1, max_size=3))
def test_any_sweep_works_or_gets_one_paragraph(front_door, arguments):
    works_or_one_paragraph(*front_door(["-m", *arguments]))


# --- What composes must also build --------------------------------------------------------------------------------------------------------
# No value that is allowed and large: these either are small or must be refused.
WHOLE = listed(
    "0 -1 1 2 3 7 64 1000000000001 9223372036854775808 18446744073709551616 -9999999999999999999 true 1.5 nan null [] [3] {a:1} abc '4'"
)
REAL = listed("0 -0.0 -1 0.5 1 1.0001 2 1e-300 1e300 1e400 -1e400 nan inf -inf 9999999999999999999999 true null [] [0.5] abc")
LISTS = listed("[] [8] [8,8] [0] [-5] [8,-1] [1.5] [a] [[8]] [true] [nan] [inf] [null] [1000000000000] [8,9e99] {} {a:1} 8 null abc '[8]'")
TEXT = st.one_of(
    listed(
        "nonsense random null ~ ~no-such-user/x ~nobody . .. / /etc/shadow /dev/null /proc/self/mem a/b a//b a--b/c..d x.pth [] {} [tiny] 5"
    ),
    listed("'' ' ' tiny vits-mae-in mvp-tiny TINY mean pooled keypoints tokens concatenate bfloat16 true 1.0 hf-hub:a/b resnet18.x"),
    st.sampled_from(["a" * 300, "/" + "b/" * 3000, "'\\n'", "'\N{SNOWMAN}'"]),
    texts.map(lambda text: "'" + text.replace("'", "") + "'"),
)
SPECIAL = {
    "views": listed("[] [front] [wrist,front] [front,front] [nope] [1] [[front]] [null] nope 5 {} {a:1} '' true"),
    "camera": listed("L0 L5 L6 L9 l1 L1:x L3:azimuth L-1 preset:x [] [L1] [L0,L1] {a:1} 3 null '' L٣ /tmp"),
    "agent.net": LISTS,
    "steps": listed("1 2 300 1000000000000 0 -1"),
}
SPECIAL["eval_camera"] = SPECIAL["camera"]
DEFAULTS = {item.name: item.default for item in dataclasses.fields(RLConfig)}
# What `build_parts` reads of the root's keys.
LATER = {
    "names",
    "encoder",
    "agent",
    "log_every",
    "checkpoint_every",
    "eval_every",
    "eval_episodes",
    "device",
    "sim",
    "logger",
    "tag",
    "run_dir",
}
ROOT = sorted(DEFAULTS.keys() - LATER - {"fresh"})
# Some large encoders are asked for what they must refuse before they build their network.
ENCODERS = {
    **dict.fromkeys(("identity", "pixels", "random"), []),
    "curl": ["weights=random", "encoder.size=20", "encoder.filters=4"],
    "imagenet": ["encoder.size=1"],
    "siglip": ["encoder.variant=nonsense"],
}
SMALL_AGENTS = {
    "sac": ["agent.net=[8]", "agent.batch_size=4"],
    "ppo": ["agent.net=[8]", "agent.n_steps=4", "agent.batch_size=4"],
    "random": [],
    "expert": [],
    "noisy_expert": [],
}


def values_of(key, default):
    if key in SPECIAL:
        return SPECIAL[key]
    if isinstance(default, bool):
        return listed("true false 1 0 null yes [] abc nan")
    return (
        WHOLE if isinstance(default, int) else REAL if isinstance(default, float) else st.one_of(TEXT, WHOLE) if default is None else TEXT
    )


@st.composite
def settings_of_parts(draw):
    encoder, agent = draw(st.sampled_from(sorted(ENCODERS))), draw(st.sampled_from(sorted(SMALL_AGENTS)))
    small = ["num_envs=2", "horizon=3", "image_size=8", "steps=40", "views=front", *ENCODERS[encoder], *SMALL_AGENTS[agent]]
    root = {key: DEFAULTS[key] for key in ROOT}
    own = {
        f"{group}.{key}": default
        for group, name in (("encoder", encoder), ("agent", agent))
        for key, default in load_part(group, name).items()
        if key != "_target_"
    }
    # Half of the examples shake the parts' own keys, which are few beside the root's.
    chosen = draw(
        st.lists(st.sampled_from(draw(st.sampled_from([sorted(root), sorted(own or root)]))), min_size=1, max_size=2, unique=True)
    )
    rubbish = [f"{key}={draw(values_of(key, {**root, **own}[key]))}" for key in chosen]
    return [f"encoder={encoder}", f"agent={agent}", *small, *rubbish]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(settings_of_parts())
@example(["encoder=timm", "encoder.model=nonsense", "weights=random"])
@example(["encoder=pixels", "encoder.size=100000"])
@example(["encoder=pixels", "encoder.size=-1"])
@example(["encoder=pixels", "agent.net=[-5]"])
@example(["encoder=pixels", "agent.gamma=2"])
@example(["encoder=pixels", "agent.batch_size=0"])
@example(["encoder=identity", "agent.buffer_size=abc"])
@example(["encoder=mvp", "weights='~no-such-user/x'"])
def test_what_composes_is_built_or_gets_a_user_error(monkeypatch, words):
    def unreachable(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    try:
        parts = build_parts(compose(RLConfig, words)[0], "cpu")
    except UserError as error:
        assert len(str(error)) > 30
    else:
        parts.env.close()


def test_rubbish_is_refused_for_what_it_is(monkeypatch):
    """The names in the messages: a test that only waits for a UserError would pass if everything were refused."""
    for words, says in (
        (["encoder=pixels", "encoder.size=100000"], "encoder.size=100000 .*at most 256"),
        (["encoder=pixels", "agent.net=[-5]"], "agent.net"),
        (["encoder=pixels", "agent.net=[a]"], r"agent.net\[0\]=a is not possible"),
        (["encoder=pixels", "agent.net=256"], r"agent.net is a list, such as agent.net=\[256,256\]"),
        (["encoder=pixels", "agent.gamma=${task}"], "agent.gamma=reach is not possible: agent.gamma is a number"),
        (["encoder=pixels", "agent.gamma=2"], "agent.gamma=2 .*at most 1"),
        (["encoder=random", "encoder.seed=-1"], "encoder.seed=-1"),
        (["encoder=mvp", f"weights={'a' * 300}"], "cannot be looked up .File name too long"),
        (["encoder=mvp", "weights='~no-such-user/x'"], "weights='~no-such-user/x' cannot be looked up"),
        (["num_envs=???"], "num_envs"),
        (["agent._target_=os.getcwd"], "no key 'agent._target_'"),
    ):
        with pytest.raises(UserError, match=says):
            build_parts(compose(RLConfig, words)[0], "cpu")
    build_parts(compose(RLConfig, ["encoder=pixels", "num_envs=2", "steps=40", "image_size=8", "agent.net=[]"])[0], "cpu").env.close()
