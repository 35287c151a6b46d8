# Sourced by the recipes and by tests/run.sh: puts the package and all that it needs within reach.
#
#     source recipes/environment.sh
#
# Takes the python of the environment it is started in if that has asr_emapl and its dependencies; else makes
# .venv in the repository root, or repairs a half-made one. Either way PYTHON is exported and python, asr-emapl,
# and torchrun are first in PATH. Quiet unless it installs something. bash 4 or later; no root needed.
# shellcheck shell=bash

_emapl_fail() {
    printf 'error: %s\n' "$1" >&2
    return 1
}

# Whether a python runs everything. torchaudio is imported and not only looked for: beside a torch of another
# build it is found and cannot be loaded. From /, since the repository root as the current directory would make
# the package importable without being installed.
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

# .venv holds a stamp: "incomplete" while it is made, then what it was made from and where.
_emapl_make() {
    local root=$1 venv=$1/.venv stamp=$1/.venv/asr_emapl.stamp loud=--progress-bar=on wanted had='' base
    wanted="$(cksum <"$root/setup.cfg") $root"
    [[ ! -f $stamp ]] || had=$(<"$stamp")
    if [[ $had == "$wanted" ]] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    # A .venv without a stamp is somebody's own and one with another setup.cfg wants an update: pip mends both.
    # An interrupted, moved or broken one is begun anew: pip takes a package torn half-way for installed.
    if [[ -n $had && $had != *" $root" ]] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        base=$(_emapl_find_python) || return 1
        printf 'making %s with %s\n' "$venv" "$base" >&2
        "$base" -m venv --clear -- "$venv" ||
            _emapl_fail "$base -m venv could not make $venv (free space? permissions?)" || return 1
        printf 'incomplete\n' >"$stamp"
    fi
    # pip's bars where somebody watches; errors alone in a log.
    [[ -t 2 ]] || loud=-qq
    printf 'installing into %s: 2 to 20 minutes and 6 GB the first time\n' "$venv" >&2
    printf '(torch and torchaudio come as CUDA builds of several GB, which run on a CPU too)\n' >&2
    (cd -- "$root" && .venv/bin/python -m pip install "$loud" --disable-pip-version-check -e '.[quickstart,segment,report,tensorboard,dev]') >&2 ||
        _emapl_fail "pip could not install asr_emapl into $venv; mend what it says and run this again" || return 1
    _emapl_works "$venv/bin/python" ||
        _emapl_fail "$venv is installed but does not import; delete it and run this again" || return 1
    printf '%s\n' "$wanted" >"$stamp"
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
    # An environment shared by several checkouts has one of them installed: run the code that lies beside this file.
    origin=$(cd / && "$PYTHON" -c 'import asr_emapl, pathlib; print(pathlib.Path(asr_emapl.__file__).resolve().parents[1])')
    if [[ $origin != "$root" ]]; then
        printf 'note: asr_emapl is installed from %s; running the code in %s\n' "$origin" "$root" >&2
        export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    fi
}

_emapl_environment || return 1
unset -f _emapl_fail _emapl_works _emapl_bin _emapl_find_python _emapl_make _emapl_environment
