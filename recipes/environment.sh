# Sourced by the recipes and by tests/run.sh: finds or creates an environment with the package and its dependencies.
#
#     source recipes/environment.sh
#
# Uses the current environment if it has asr_emapl and its dependencies. Otherwise creates .venv in the repository
# root, or completes an interrupted installation. Exports PYTHON, and puts python, asr-emapl and torchrun first in
# PATH. Prints nothing unless it installs something. Requires bash 4 or later, but not root access.
# shellcheck shell=bash

_emapl_fail() {
    printf 'error: %s\n' "$1" >&2
    return 1
}

# Whether a python has all dependencies. torchaudio must be imported, because with a different build of torch it is
# installed but cannot be loaded. The import runs in /, because in the repository root the package could be imported
# without being installed.
_emapl_works() {
    (cd / && "$1" -c 'import asr_emapl.cli, torch, torchaudio, soundfile, sentencepiece, jiwer, pydantic,\
 tensorboard, matplotlib' && [[ -x "$(_emapl_bin "$1")/asr-emapl" ]]) >/dev/null 2>&1
}

_emapl_bin() {
    (cd / && "$1" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
}

_emapl_find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3.10 python3; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            printf '%s\n' "$name"
            return
        fi
    done
    _emapl_fail 'no python >= 3.10 with venv found (on Debian: apt install python3 python3-venv)'
}

# _emapl_pip ROOT: install the package in ROOT/.venv. Without a terminal, where pip shows no progress bars, print a line
# every minute.
_emapl_pip() (
    cd -- "$1" || exit 1
    loud=--progress-bar=on timer='' self=$BASHPID # the timer has another BASHPID
    if [[ ! -t 2 ]]; then
        loud=-qq
        _emapl_timer "$self" &
        timer=$!
    fi
    status=0
    .venv/bin/python -m pip install "$loud" --disable-pip-version-check -e '.[quickstart,segment,report,tensorboard,dev]' ||
        status=$?
    [[ -z $timer ]] || kill "$timer" 2>/dev/null
    exit "$status"
)

# _emapl_timer PID: print the minutes until a process ends, also if it is killed.
_emapl_timer() {
    local seconds=0
    while sleep 1 && kill -0 "$1" 2>/dev/null; do
        seconds=$((seconds + 1))
        ((seconds % 60 != 0)) || printf 'installing: %s min so far\n' "$((seconds / 60))"
    done
}

# .venv has a stamp file: "incomplete" during the installation, then the checksum of setup.cfg and the root folder.
_emapl_make() {
    local root=$1 venv=$1/.venv stamp=$1/.venv/asr_emapl.stamp wanted had='' base since=$SECONDS
    wanted="$(cksum <"$root/setup.cfg") $root"
    [[ ! -f $stamp ]] || had=$(<"$stamp")
    if [[ $had == "$wanted" ]] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    # pip updates a .venv without a stamp (made by the user) or with another setup.cfg. An interrupted, moved or broken
    # one is created again, because pip may consider an incomplete package installed.
    if [[ -n $had && $had != *" $root" ]] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        base=$(_emapl_find_python) || return 1
        printf 'creating %s with %s\n' "$venv" "$base" >&2
        "$base" -m venv --clear -- "$venv" ||
            _emapl_fail "$base -m venv cannot create $venv; check free space and permissions" || return 1
        printf 'incomplete\n' >"$stamp"
    fi
    printf 'installing into %s: 2 to 20 minutes and 6 GB the first time\n' "$venv" >&2
    printf '(the CUDA builds of torch and torchaudio have several GB; they also run on a CPU)\n' >&2
    _emapl_pip "$root" >&2 ||
        _emapl_fail "pip cannot install asr_emapl into $venv; fix the error above and rerun" || return 1
    _emapl_works "$venv/bin/python" ||
        _emapl_fail "asr_emapl is installed in $venv but cannot be imported; delete $venv and rerun" || return 1
    printf '%s\n' "$wanted" >"$stamp"
    printf 'installed in %s min\n' "$(((SECONDS - since + 59) / 60))" >&2
}

_emapl_environment() {
    local root candidate found='' origin
    root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P) || return 1
    for candidate in python python3; do
        if _emapl_works "$candidate"; then
            found=$candidate
            break
        fi
    done
    if [[ -z $found ]]; then
        _emapl_make "$root" || return 1
        found=$root/.venv/bin/python
    fi
    PYTHON=$("$found" -c 'import sys; print(sys.executable)')
    export PYTHON PATH
    PATH=$(_emapl_bin "$PYTHON"):$(dirname -- "$PYTHON"):$PATH
    # If the environment has another checkout installed, run the code of this one.
    origin=$(cd / && "$PYTHON" -c 'import asr_emapl, pathlib; print(pathlib.Path(asr_emapl.__file__).resolve().parents[1])')
    if [[ $origin != "$root" ]]; then
        printf 'note: asr_emapl is installed from %s; running the code in %s\n' "$origin" "$root" >&2
        export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    fi
}

_emapl_environment || return 1
unset -f _emapl_fail _emapl_works _emapl_bin _emapl_find_python _emapl_pip _emapl_timer _emapl_make _emapl_environment
