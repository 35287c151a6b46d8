#!/usr/bin/env bash
# The scaling rule on real speech: pseudo-labels with a language model at several batch sizes (recipes/kappa_scan).
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/librispeech/kappa.sh --from DIR [options] [-- key=value ...]

  --from DIR      output folder of strategies.sh: its stored features, pieces, and language model with the weights of seed 0
  --exp DIR       output folder (default: exp/librispeech-kappa in the repository root)
  -- key=value    overrides conf/frozen_whisper_tiny.yaml
  --hours, --kappas, --seeds, --workers: see recipes/kappa_scan/run.sh (here by default 12, 4, 3, one per core)

1.5 h transcribed. Each run is validated eight times on every ninth utterance of dev-clean and every fourth of dev-other.
HELP
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
from='' exp=$root/exp/librispeech-kappa options=(--hours 12 --kappas 4 --seeds 3) overrides=()
valued='from exp' passed='hours kappas seeds workers'
read_options "$@"
weights=$from/runs/1.5-lm-seed0.json
[[ -f $weights ]] || fail "--from '$from' contains no runs/1.5-lm-seed0.json; run strategies.sh --amounts 1.5 --exp DIR first"
from=$(realpath -- "$from")
mkdir -p -- "$exp/features"
exp=$(realpath -- "$exp")

thin() { [[ -f $3 ]] || awk -v n="$2" 'NR % n == 0' "$1" >"$3.part" && mv -- "$3.part" "$3"; }
thin "$from/features/dev-clean.jsonl" 9 "$exp/features/dev-clean.jsonl"
thin "$from/features/dev-other.jsonl" 4 "$exp/features/dev-other.jsonl"
ln -sf -- "$from"/features/dev-*.tar "$exp/features/" # paths in a manifest are relative to it
extractor=$(sed -n '/^features:/,/^[^ ]/s/^  weights: //p' "$from/runs/1.5-seed-seed0/config.yaml")
exec bash "$root/recipes/kappa_scan/run.sh" --config "$here/conf/frozen_whisper_tiny.yaml" --exp "$exp" --systems ema "${options[@]}" \
    -- "features.weights=$extractor" "tokenizer=$from/data/pieces.json" "data.labelled=[$from/data/labelled-1.5.jsonl]" \
    "data.unlabelled=[$from/data/unlabelled-1.5.jsonl]" "pseudo_labels.lm_config=$from/runs/1.5-lm-seed0.json" \
    teacher.half_life_hours=4 ${overrides[@]+"${overrides[@]}"}
