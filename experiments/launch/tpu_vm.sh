#!/usr/bin/env bash
# Trains on a TPU VM slice: every worker runs the same command.
#
#   NAME=pod ZONE=us-west4-a experiments/launch/tpu_vm.sh \
#     --config=configs/quickstart.py --workdir=gs://BUCKET/run [--config.section.field=value ...]
#
# The repository with its environment lies in FOLDER on every worker. A worker that was told to stop
# (exit code 75) starts again at once; any other failure ends all of them, and the slice is tried
# again RETRIES times. A slice that was taken away has to be created anew; then run this again.
set -euo pipefail
: "${NAME:?the slice}" "${ZONE:?its zone}"
folder=${FOLDER:-partitionsel_jax}

train="cd $(printf %q "$folder") && .venv/bin/python -m experiments.train --patience=600 $(printf '%q ' "$@")"
for _ in $(seq 0 "${RETRIES:-3}"); do
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all \
    --command="while true; do ($train); code=\$?; [ \$code = 75 ] || exit \$code; done" && exit 0
  sleep "${PAUSE:-30}"
done
exit 1
