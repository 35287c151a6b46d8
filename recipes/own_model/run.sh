#!/usr/bin/env bash
# The quickstart with the model in my_model.py: bash recipes/own_model/run.sh [options of recipes/quickstart/run.sh]
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
exec bash "$here/../quickstart/run.sh" --exp "$here/../../exp/own_model" --model "$here/model.yaml" "$@"
