# Trains on a GPU: reads datasets, and has neither Beam nor TFT.
#
#   docker build -f deploy/trainer.Dockerfile -t IMAGE .
#   docker run --gpus all -v DATASET:/data:ro -v MODEL:/model IMAGE train /data --output /model

FROM python:3.11.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
COPY constraints.txt ./
# CUDA comes from the wheels that this TensorFlow names; the host has the driver only.
RUN pip install --no-cache-dir -c constraints.txt 'tensorflow[and-cuda]'
COPY pyproject.toml README.md LICENSE ./
COPY beam_jobs beam_jobs
COPY headrace headrace
COPY trainer trainer
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && pip install --no-cache-dir --no-deps /wheels/*.whl \
    && pip uninstall --yes pip

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --create-home headrace
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    TF_CPP_MIN_LOG_LEVEL=2
WORKDIR /home/headrace
USER headrace
ENTRYPOINT ["headrace"]
