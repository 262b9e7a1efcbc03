# Trains on a GPU or a TPU: reads datasets, and has neither Beam nor TFT.
#
#   docker build -f deploy/trainer.Dockerfile -t IMAGE .
#   docker run --gpus all -v DATASET:/data:ro -v MODEL:/model IMAGE train /data --output /model
#
# With JAX instead of TensorFlow, for GPUs or for TPUs:
#
#   docker build -f deploy/trainer.Dockerfile --build-arg KERAS_BACKEND=jax -t IMAGE .
#   docker build -f deploy/trainer.Dockerfile --build-arg KERAS_BACKEND=jax --build-arg DEVICE=tpu -t IMAGE .

FROM python:3.11.11-slim-bookworm AS build
ARG KERAS_BACKEND=tensorflow
ARG DEVICE=cuda12
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
COPY constraints.txt ./
# CUDA comes from the wheels that these packages name; the host has the driver only. TensorFlow is
# there with JAX, too: it reads the records, on the CPU.
RUN case "$KERAS_BACKEND" in \
      tensorflow) set -- 'tensorflow[and-cuda]' ;; \
      jax) set -- tensorflow-cpu==2.21.0 "jax[$DEVICE]" ;; \
      *) echo "KERAS_BACKEND must be tensorflow or jax, but is $KERAS_BACKEND." >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir -c constraints.txt "$@" \
         boto3 google-cloud-storage google-crc32c pillow
COPY pyproject.toml README.md LICENSE ./
COPY beam_jobs beam_jobs
COPY headrace headrace
COPY trainer trainer
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && pip install --no-cache-dir --no-deps /wheels/*.whl \
    && pip uninstall --yes pip

FROM python:3.11.11-slim-bookworm
ARG KERAS_BACKEND=tensorflow
RUN useradd --uid 10001 --create-home headrace && install -d -o headrace /model
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    KERAS_BACKEND=$KERAS_BACKEND \
    TF_CPP_MIN_LOG_LEVEL=2
WORKDIR /home/headrace
USER headrace
ENTRYPOINT ["headrace"]
