# An image with seggen and its pipeline. It trains nothing by itself: mount a project at /project.
#
#   docker build --tag seggen:cpu .
#   docker build --tag seggen:cuda --build-arg TORCH=cu130 .
#   docker run --rm -it -v "$PWD":/project seggen:cpu seggen doctor
#
# TORCH is a backend of uv's --torch-backend: cpu, or the CUDA version of the host's driver.
FROM python:3.11-slim-bookworm
ARG TORCH=cpu
ARG UV_VERSION=0.13.8
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git build-essential \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "uv==${UV_VERSION}" \
    && useradd --create-home --uid 1000 seggen \
    && install --directory --owner seggen /project
WORKDIR /src
COPY . .
RUN uv pip install --system --no-cache --compile-bytecode --torch-backend "${TORCH}" \
        --constraints requirements.lock '.[pipeline]' \
    && rm -rf build
USER 1000
WORKDIR /project
ENV DVC_NO_ANALYTICS=true DAGSTER_DISABLE_TELEMETRY=yes MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=true OMP_NUM_THREADS=1
CMD ["seggen", "--help"]
