#!/usr/bin/env bash
# Makes .venv from requirements.txt and installs the OpenGL libraries; does nothing when that was done. Called by make.
set -euo pipefail
cd "$(dirname "$0")/.."
# A user's own settings must not send packages elsewhere or change versions; mirrors and certificates are kept.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_USER PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_NO_DEPS
unset UV_PYTHON UV_PROJECT_ENVIRONMENT UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX UV_CONSTRAINT UV_OVERRIDE UV_EXCLUDE_NEWER UV_NO_BINARY UV_OFFLINE

gl_packages="libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libopengl0"

say() { printf '%s\n' "$*"; }

as_root() { # runs a command as root, or fails at once without asking for a password
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

apt_install() { # installs Debian packages quietly, or says what an administrator must type
    if ! command -v apt-get >/dev/null; then
        say "This is not a Debian or Ubuntu system: install what these packages hold yourself: $*"
        return 1
    fi
    # With a package list that is there, no update is needed.
    if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
        { as_root apt-get update -qq >/dev/null 2>&1 && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }; then
        return 0
    fi
    say "Ask an administrator to run:  apt-get update && apt-get install -y $*"
    return 1
}

find_python() { # the first Python from 3.11 to 3.13
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
            command -v "$candidate"
            return
        fi
    done
    say "No Python from 3.11 to 3.13 was found ($(python3 --version 2>&1 || true)). Install one, for example: apt-get install python3" >&2
    exit 2
}

gl_is_there() { # the three libraries that a context needs; the driver is loaded by them
    "$python" - <<'PY' 2>/dev/null
import ctypes, glob
for name in ("libEGL.so.1", "libGL.so.1", "libOpenGL.so.0"):
    ctypes.CDLL(name)
vendors = glob.glob("/usr/share/glvnd/egl_vendor.d/*.json") + glob.glob("/etc/glvnd/egl_vendor.d/*.json")
assert vendors
PY
}

get_uv() { # uv from PATH, or our own copy in .tools
    if command -v uv >/dev/null; then
        command -v uv
        return
    fi
    if [ ! -x .tools/bin/uv ]; then
        rm -rf .tools
        if ! "$python" -m venv .tools >/dev/null 2>&1; then
            # Debian ships venv apart from Python.
            say "installing $1, which makes virtual environments" >&2
            rm -rf .tools
            apt_install "$1" >&2 || exit 2 # only leaves this function's subshell; set -e then ends the script
            "$python" -m venv .tools >&2 || exit 2
        fi
        .tools/bin/python -m pip install --quiet --disable-pip-version-check uv >&2 || { rm -rf .tools && exit 2; }
    fi
    say "$PWD/.tools/bin/uv"
}

python=$(find_python)
if ! gl_is_there; then
    say "installing OpenGL libraries: $gl_packages"
    apt_install $gl_packages || say "Until then only encoder=identity works, since nothing can be drawn."
fi

stamp="$(cat requirements.txt scripts/setup.sh | sha256sum | cut -d' ' -f1) $("$python" --version) $PWD"
if [ "$(cat .venv/.set_up 2>/dev/null || true)" = "$stamp" ]; then
    exit 0
fi

minor=$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
say "setting up with $("$python" --version): about 3 GB to download, 6 GB on disk"
uv=$(get_uv "python$minor-venv")
[ -x .venv/bin/python ] && .venv/bin/python --version 2>/dev/null | grep -q "Python $minor" || { rm -rf .venv && "$uv" venv --quiet --no-project --python "$python" .venv; }
say "installing packages; the first time this takes minutes"
# Only hashes that are written down are accepted.
sync() { "$uv" pip sync "$@" --quiet --python .venv/bin/python --require-hashes requirements.txt; }
if ! sync 2>.venv/set_up.log; then
    # Behind a proxy of one's own, the certificates are the system's.
    sync --system-certs || { cat .venv/set_up.log >&2 && exit 2; }
fi
# The repository itself, importable from any directory.
printf '%s\n' "$PWD" >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/robo_repr.pth"
printf '%s' "$stamp" >.venv/.set_up
say "ready; to work by hand: source .venv/bin/activate"
