#!/usr/bin/env bash
# Lint, types and tests. Runs from anywhere.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash tests/run.sh [--slow] [pytest arguments]

Without arguments: ruff (lint and format), mypy, then the tests, two at a time.
With pytest arguments, only those tests and no lint; paths are relative to the repository root:
    bash tests/run.sh tests/test_ema.py -k lag

  --slow    also the tests marked slow (minutes)
  --help    this text

Tests on real speech run if ASR_EMAPL_LIBRISPEECH names the folder that contains LibriSpeech/, tests marked gpu
if there is a CUDA device; pytest says which ones were skipped and why.
HELP
}

slow=()
chosen=()
for argument in "$@"; do
    case $argument in
        --help | -h) usage; exit 0 ;;
        # A later -m takes the place of the one in setup.cfg.
        --slow) slow=(-m 'slow or not slow') ;;
        *) chosen+=("$argument") ;;
    esac
done

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/recipes/environment.sh"
cd -- "$root"
"$PYTHON" -c 'import pytest, xdist, hypothesis, ruff, mypy' 2>/dev/null || {
    echo "error: $PYTHON lacks the test tools: pip install -e '.[all,dev]'" >&2
    exit 2
}

if ((${#chosen[@]} == 0)); then
    "$PYTHON" -m ruff check
    "$PYTHON" -m ruff format --check
    "$PYTHON" -m mypy
fi
# Two processes of one thread each: torch's threads would only contend with each other.
export OMP_NUM_THREADS=1
"$PYTHON" -m pytest -n 2 --dist worksteal -ra ${slow[@]+"${slow[@]}"} ${chosen[@]+"${chosen[@]}"}
