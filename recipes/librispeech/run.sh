#!/usr/bin/env bash
# Prepare LibriSpeech, train on it with an EMA teacher, decode and score.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/librispeech/run.sh --data DIR [options] [-- key=value ...]

  --data DIR        folder that contains LibriSpeech/<part>/<speaker>/<chapter>/ (stages 0 and 1)
  --config FILE     conf/mini.yaml (default), conf/emapl_100h_860h.yaml (for 8 GPUs), or your own
  --stage N         first stage (default 0); all stages can be repeated
  --stop-stage N    last stage (default 5)
  --pieces N        tokenizer of N SentencePiece (BPE) pieces, trained on the transcripts (default: characters)
  --exp DIR         output folder, the base of relative paths in config and overrides (default: exp/librispeech in the repository root)
  --nproc N         training processes on this machine, one per GPU (default 1)
  --nnodes M        number of machines (default 1), or MIN:MAX; run --stage 3 --stop-stage 3 on each, with the same --rdzv
  --rdzv HOST:PORT  address of one of the machines
  --max-restarts N  restarts from the last checkpoint after a process fails (default 0)
  -- key=value ...  overrides the config; pass the same for all stages: run_dir=runs/other teacher.half_life_hours=2

  0 check the environment, and that DIR contains the parts that the config uses
  1 verify these parts and write their manifests
  2 create the tokenizer, unless its file exists
  3 start or resume training
  4 decode the validation parts with teacher and student
  5 score: print tables, write JSON files, plot the curves

SIGTERM, SIGUSR1 and Ctrl-C stop training after the current step: it saves a checkpoint and exits with status 0. Rerun the
same command to resume. slurm.sbatch runs stage 3 as a job that requeues itself before its time limit.
HELP
}

say() { printf '== stage %s: %s\n' "$1" "$2"; }
runs() { ((stage <= $1 && $1 <= stop_stage)); }

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
data='' config=conf/mini.yaml stage=0 stop_stage=5 exp=$root/exp/librispeech nproc=1 nnodes=1 rdzv='' pieces='' max_restarts=0
overrides=()
valued='data config stage stop-stage exp nproc nnodes rdzv pieces max-restarts'
read_options "$@"
[[ $stage$stop_stage =~ ^[0-5]{2}$ && $stage -le $stop_stage ]] || fail "--stage '$stage' --stop-stage '$stop_stage': stages must be from 0 to 5, and the first must not be after the last"
[[ $nproc.$nnodes =~ ^[1-9][0-9]*\.[1-9][0-9]*(:[1-9][0-9]*)?$ ]] ||
    fail "--nproc '$nproc' --nnodes '$nnodes': not positive numbers"
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max-restarts '$max_restarts': not a number"
[[ $nnodes == 1 ]] || [[ $stage$stop_stage == 33 && -n $rdzv ]] || fail "--nnodes $nnodes requires --stage 3, --stop-stage 3 and --rdzv"
[[ -f $config ]] || [[ ! -f $here/$config ]] || config=$here/$config
[[ -f $config ]] || fail "--config $config: no such file"
config=$(realpath -- "$config")
if ((stage <= 1)); then
    [[ -n $data ]] || fail "--data is missing; specify the folder that contains LibriSpeech/"
    [[ -d $data/LibriSpeech ]] || fail "--data $data contains no folder LibriSpeech/"
    data=$(realpath -- "$data")
fi

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
mkdir -p -- "$exp"
cd -- "$exp"

# Values of the config and the overrides that the stages need, one per line: run_dir, tokenizer, the parts (whose
# manifests are in data/), the transcribed manifests, the model's package (trusted, because the config is the user's),
# then name and manifest of each validation part.
settings=$("$PYTHON" - "$config" ${overrides[@]+"${overrides[@]}"} <<'PYTHON'
import sys
from pathlib import Path
from asr_emapl.config import load_config
from asr_emapl.errors import UserError
try:
    config = load_config(Path(sys.argv[1]), sys.argv[2:])
except UserError as error:
    sys.exit(f"error: {error}")
data = config.data
manifests = [Path(path) for path in (*data.labelled, *data.unlabelled, *data.validation.values())]
parts = dict.fromkeys(path.stem for path in manifests if path.parent == Path("data"))
package = config.model.target.partition(":")[0].partition(".")[0]
print(config.run_dir, config.tokenizer, ",".join(parts), ",".join(data.labelled), package, sep="\n")
print(*(f"{name}\n{manifest}" for name, manifest in data.validation.items()), sep="\n")
PYTHON
) || exit 2
mapfile -t settings <<<"$settings"
run_dir=${settings[0]} tokenizer=${settings[1]} parts=${settings[2]} package=${settings[4]} validation=("${settings[@]:5}")

# Call "$1 MANIFEST HYPOTHESES PART MODEL" for each validation part and model.
for_each() {
    local i model
    for ((i = 0; i + 1 < ${#validation[@]}; i += 2)); do
        for model in teacher student; do
            "$1" "${validation[i + 1]}" "$run_dir/decode/${validation[i]}.$model.jsonl" "${validation[i]}" "$model"
        done
    done
}
# Run a launcher. If a signal stops it, wait until it has saved a checkpoint, and exit with its status.
train() {
    local status=0
    start "$@"
    finish "$!" || status=$?
    if [[ -n $was_stopped ]]; then
        # For slurm.sbatch. The folder exists only on the node of the batch script.
        [[ -z ${EMAPL_STOPPED:-} || ! -d ${EMAPL_STOPPED%/*} ]] || : >"$EMAPL_STOPPED"
        exit "$status"
    fi
    return "$status"
}
decode() {
    run asr-emapl decode --checkpoint "$run_dir" --trust "$package" --model "$4" --manifest "$1" --out "$2" --overwrite
}
score() {
    printf '%s, %s\n' "$3" "$4"
    run asr-emapl score "$1" "$2"
    run asr-emapl score --json "$1" "$2" >"$run_dir/scores/$3.$4.json"
}

if runs 0; then
    say 0 "environment; $parts in $data"
    echo "code $(git -C "$root" describe --always --dirty 2>/dev/null || echo 'not from a git repository')"
    "$PYTHON" -c 'import torch; print("torch", torch.__version__, "with", torch.cuda.device_count(), "GPUs")'
    for part in ${parts//,/ }; do
        [[ -d $data/LibriSpeech/$part ]] || fail "$data/LibriSpeech/$part is missing; download it with asr-emapl prepare librispeech --download"
    done
fi
if runs 1; then
    say 1 "verify $parts and write manifests to $exp/data"
    run asr-emapl prepare librispeech --data "$data" --out data --parts "$parts"
fi
if runs 2; then
    say 2 "tokenizer $tokenizer"
    make=()
    if [[ -n $pieces ]]; then
        make=(--kind bpe --size "$pieces")
        IFS=, read -ra labelled <<<"${settings[3]}"
        for manifest in "${labelled[@]}"; do make+=(--manifest "$manifest"); done
    fi
    if [[ -f $tokenizer ]]; then
        echo "already exists"
    else
        run asr-emapl tokenizer --out "$tokenizer" ${make[@]+"${make[@]}"}
    fi
fi
if runs 3; then
    say 3 "train $run_dir in $exp, $nnodes x $nproc processes"
    launch=(asr-emapl) meet=(--standalone)
    [[ $nnodes == 1 ]] || meet=(--rdzv-backend c10d --rdzv-endpoint "$rdzv" --rdzv-id "$run_dir")
    # Otherwise restarted processes find the addresses of the previous ones (pytorch issue 135712).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    # torchrun that does not handle SIGTERM exits with the status of its processes, otherwise with 1.
    [[ $nnodes.$nproc.$max_restarts == 1.1.0 ]] ||
        launch=(torchrun --nnodes "$nnodes" --nproc-per-node "$nproc" --max-restarts "$max_restarts" "${meet[@]}"
            --signals-to-handle SIGHUP,SIGQUIT -m asr_emapl)
    # With `root`, the paths in the config.yaml of the run are absolute, so that commands find them from any folder.
    rooted=()
    grep -q '^root:' -- "$config" || rooted=(root="$PWD")
    train "${launch[@]}" train --config "$config" ${rooted[@]+"${rooted[@]}"} ${overrides[@]+"${overrides[@]}"}
fi
if runs 4; then
    say 4 "decode with teacher and student to $run_dir/decode"
    for_each decode
fi
if runs 5; then
    say 5 "score to $run_dir/scores and $run_dir/curves.png"
    mkdir -p -- "$run_dir/scores"
    for_each score
    run asr-emapl score-table "$(basename "$run_dir")=$run_dir/scores"
    run asr-emapl plot "$run_dir" --out "$run_dir/curves.png"
fi
