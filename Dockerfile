# The server on tritonserver's own image, for CPUs and NVIDIA GPUs.
#
#   docker build -t cold-server .
#   docker run --rm --init --shm-size=1g --stop-timeout=45 -p 8000-8002:8000-8002 \
#       -v "$PWD/models:/models:ro" \
#       cold-server --base-model /models/base --adapter equations=/models/equations
#
# Add `--gpus all` for a GPU. `--shm-size`: every model process takes its tensors' shared memory in
# 16 MB steps, and Docker's default of 64 MB for all of them is too little. `--stop-timeout`: running requests
# get 30 s to end, where Docker's default is 10 s.

# 25.10 has Python 3.12; tritonserver is on the PATH, so the `server` extra is not installed.
FROM nvcr.io/nvidia/tritonserver:25.10-py3

# A virtual environment, because the system's packages cannot be replaced by the pinned ones. It
# comes first on the PATH: tritonserver's Python backend takes the python3 that it finds there.
RUN python3 -m venv --without-pip /opt/cold
ENV PATH=/opt/cold/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    PYTHONUNBUFFERED=1

# For the native ops, and for triton-lang, which compiles the launchers of its kernels as it goes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
# Apart from the rest, so that a change of the sources does not install torch again.
COPY install/torch.txt install/torch.txt
RUN /usr/bin/python3 -m pip --python /opt/cold/bin/python install --no-cache-dir -r install/torch.txt
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY kernels kernels
# The native ops are compiled against the torch that is there, not against one fetched for the build.
RUN /usr/bin/python3 -m pip --python /opt/cold/bin/python install --no-cache-dir --no-build-isolation \
        -c constraints.txt -c install/torch.txt ./kernels
COPY client client
COPY model_repository model_repository
COPY cold_backend cold_backend
RUN /usr/bin/python3 -m pip --python /opt/cold/bin/python install --no-cache-dir \
        -c constraints.txt -c install/torch.txt ./client . \
    && useradd --create-home --uid 10001 cold

USER 10001
WORKDIR /home/cold

EXPOSE 8000 8001 8002
# A dead model process does not show here, on release 2.51: cold-server itself restarts the server then.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/models/cold/ready', timeout=4)"]
ENTRYPOINT ["cold-server", "--host", "0.0.0.0"]
