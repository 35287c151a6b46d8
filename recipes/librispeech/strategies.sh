#!/usr/bin/env bash
# Compare the strategies of pseudo-labelling on real speech: a small student on the frozen encoder of Whisper tiny.en.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/librispeech/strategies.sh --data DIR --lm-text FILE [options] [-- key=value ...]

  --data DIR        folder that contains LibriSpeech/ with train-clean-5, train-clean-100, dev-clean and dev-other
  --lm-text FILE    text of the language model, one sentence per line (also .gz, .xz), such as that of
                    `asr-emapl prepare librispeech-lm`; the transcripts of the training audio are removed from it
  --weights FILE    Whisper's weights, or tiny.en (default) for those of the extra whisper-weights
  --amounts LIST    hours of labelled audio: 1.5 (of all speakers of train-clean-5), 5.3 (all of it); default 1.5,5.3
  --seeds N         number of seeds; each has its own seed model (default 3)
  --systems LIST    systems of recipes/librispeech/systems.yaml (default: all)
  --hours H         hours of audio of every run after the seed model (default 12)
  --external FILE   labels of another recogniser for the unlabelled audio, for system "external"; whisper_labels.py makes
                    those of the whole of Whisper tiny.en
  --workers N       number of runs in parallel (default: one per core, or one per GPU)
  --greedy          decode without the language model only; a later run without --greedy adds the rest
  --table           do not train; print the tables and plot the completed runs
  --exp DIR         output folder (default: exp/librispeech-strategies in the repository root)
  -- key=value      overrides conf/frozen_whisper_tiny.yaml

The features of all audio are computed once and stored (1.4 GB). For each amount and seed, a supervised seed model is
trained, and from it all systems on the same amount of audio. 0.4 h of 109 speakers of train-clean-100 are held out; on their
transcripts, the weights of the language model are tuned for the labels and for the decoding of each system. Prints one
table per amount, and one of decoding with the language model. Rerun the same command to resume; completed runs are not
repeated.
HELP
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
config=$here/conf/frozen_whisper_tiny.yaml
exp=$root/exp/librispeech-strategies data='' lm_text='' weights=tiny.en amounts=1.5,5.3 hours=12 greedy='' overrides=() options=() decoding=(--decode-with-lm)
valued='data lm-text weights amounts exp hours' passed='seeds systems workers' passed_files=external passed_flags=table flags=greedy
read_options "$@"
[[ -z $greedy ]] || decoding=()
[[ -n $data && -d $data/LibriSpeech ]] || fail "--data '$data' contains no folder LibriSpeech/"
[[ -f $lm_text ]] || fail "--lm-text '$lm_text': no such file"
for amount in ${amounts//,/ }; do
    [[ $amount == 1.5 || $amount == 5.3 ]] || fail "--amounts: $amount is neither 1.5 nor 5.3"
done
data=$(realpath -- "$data") lm_text=$(realpath -- "$lm_text")

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
weights=$(whisper_weights "$weights") || exit 2
overrides=("features.weights=$weights" ${overrides[@]+"${overrides[@]}"})
export PYTHONPATH=$root/recipes${PYTHONPATH:+:$PYTHONPATH}
command=("$PYTHON" "$root/recipes/strategies/strategies.py" --config "$config" --systems-file "$here/systems.yaml" --lm data/3gram.arpa
    --tuning data/tuning.jsonl --amounts "$amounts" --unit h --hours "$hours" --standard baseline --validations 1 ${decoding[@]+"${decoding[@]}"}
    ${options[@]+"${options[@]}"})
"${command[@]}" --check -- "${overrides[@]}"
mkdir -p -- "$exp"
cd -- "$exp"

parts=(train-clean-5 train-clean-100 dev-clean dev-other)
run asr-emapl prepare librispeech --data "$data" --out data --parts "$(IFS=, && echo "${parts[*]}")"
for part in "${parts[@]}"; do
    [[ -f features/$part.jsonl ]] || run asr-emapl extract-features "data/$part.jsonl" --config "$config" --out features "${overrides[@]}"
done
if [[ ! -f data/3gram.arpa ]]; then
    # The language model helps to label the audio, so it must not know what is said there.
    run asr-emapl lm --text "$lm_text" --exclude data/train-clean-5.jsonl --exclude data/train-clean-100.jsonl --out data/3gram.arpa
fi
# 1.5 h: the first utterances of each speaker of train-clean-5. The rest of it and train-clean-100 are unlabelled, but for
# every second of the speakers with one utterance there: these utterances tune the weights of the language model.
if [[ ! -f data/unlabelled-1.5.jsonl ]]; then
    run asr-emapl split features/train-clean-5.jsonl --hours 1.5 --out data/labelled-1.5.jsonl --rest data/rest-1.5.jsonl --overwrite
    "$PYTHON" - <<'PYTHON'
from collections import Counter

from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifests
all_100 = list(read_manifest("features/train-clean-100.jsonl"))
count = Counter(utterance.speaker for utterance in all_100)
tuning = [utterance for utterance in all_100 if count[utterance.speaker] == 1][::2]
held_out = {utterance.id for utterance in tuning}
unlabelled = [utterance for utterance in all_100 if utterance.id not in held_out]
write_manifests({
    "data/labelled-5.3.jsonl": list(read_manifest("features/train-clean-5.jsonl")),
    "data/tuning.jsonl": tuning,
    "data/unlabelled-5.3.jsonl": unlabelled,
    "data/unlabelled-1.5.jsonl": [*read_manifest("data/rest-1.5.jsonl"), *unlabelled],
})
PYTHON
fi
[[ -f data/pieces.json ]] || run asr-emapl tokenizer --kind bpe --size 100 --manifest data/labelled-1.5.jsonl --out data/pieces.json
start "${command[@]}" -- "${overrides[@]}"
wait_for "$!"
exit "${status_of[$!]}"
