#!/bin/bash
# Trains on a TPU VM of one host, each time it starts; after a stop it goes on.
#
#   gcloud compute tpus tpu-vm create headrace --zone=us-central1-a \
#     --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite \
#     --scopes=https://www.googleapis.com/auth/cloud-platform \
#     --metadata-from-file=startup-script=deploy/tpu/start.sh \
#     --metadata=image=us-central1-docker.pkg.dev/PROJECT/headrace/trainer:VERSION-tpu,dataset=gs://BUCKET/adult,model=gs://BUCKET/adult-model
#
# The image is deploy/trainer.Dockerfile with KERAS_BACKEND=jax and DEVICE=tpu. What it prints is in
# `sudo journalctl -u google-startup-scripts`. This was not run on a TPU.
set -euo pipefail

metadata() {
  curl --fail --silent --show-error --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

image=$(metadata image)
dataset=$(metadata dataset)
model=$(metadata model)

gcloud auth configure-docker "${image%%/*}" --quiet
# The devices of a TPU belong to root. A stop leaves time for a checkpoint.
exec docker run --rm --name headrace --privileged --net=host --user=0 --stop-timeout=120 \
  "$image" train "$dataset" --output "$model"
