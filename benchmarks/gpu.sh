#!/usr/bin/env bash
# Everything there is to check and to measure on one GPU, in at most 10 minutes: bash benchmarks/gpu.sh
# Writes a log per part and summary.txt into the folder OUT (default: a new one). With --smoke: on a CPU, small.
set -uo pipefail

case ${1-} in
    --help | -h) sed -n '2,3s/^# //p' -- "${BASH_SOURCE[0]}"; exit 0 ;;
    '' | --smoke) ;;
    *) printf 'error: unknown option %q (see --help)\n' "$1" >&2; exit 2 ;;
esac

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
out=${OUT:-$(mktemp -d)}
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
cd -- "$root/benchmarks"
: >"$out/summary.txt"

# Name of the part, its time limit in seconds, its command.
part() {
    local name=$1 limit=$2 status=0
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    {
        printf '\n== %s (exit %d, %d s in all)\n' "$name" "$status" "$SECONDS"
        tail -n 14 "$out/$name.log"
    } | tee -a "$out/summary.txt"
    ((status == 0)) || failed+=("$name")
}

failed=()
if [[ ${1-} == --smoke ]]; then
    part step 120 "$python" step.py --device cpu --model quickstart --rounds 2
    part step-recomputed 120 "$python" step.py --device cpu --model quickstart --recompute --rounds 2
    part throughput 240 "$python" throughput.py --device cpu --precisions bf16 --seconds 20 --rounds 1
    part average 120 "$python" ema.py --threads 1 --millions 38 --rounds 2
    part label 120 "$python" label.py --device cpu --model quickstart --minutes 0.5 --max-seconds 20 --rounds 1
else
    part tests 150 "$python" -m pytest -q -ra -m gpu -n 4 -p no:cacheprovider ../tests
    part step-paper 60 "$python" step.py --model paper --bf16 --rounds 15
    part step-paper-compiled 120 "$python" step.py --model paper --bf16 --compile --rounds 15
    part step-paper-recomputed 60 "$python" step.py --model paper --bf16 --recompute --rounds 10
    part step-mini 45 "$python" step.py --model mini --bf16 --rounds 30
    part step-mini-fp32 45 "$python" step.py --model mini --rounds 30
    part throughput-paper 110 "$python" throughput.py --encoder paper --precisions bf16 --seconds 290 --rounds 9
    part throughput-small 60 "$python" throughput.py --encoder small --precisions bf16 --seconds 40 --rounds 9
    part average 60 "$python" ema.py --rounds 30
    part label-paper 60 "$python" label.py --model paper --precision bf16 --minutes 60 --part-minutes 20 --rounds 5
fi
printf '\n%s\n' "${failed[*]:+failed: ${failed[*]}}" "logs: $out"
((${#failed[@]} == 0))
