# OpenLoopy in a container: the service and its page; any other command of `openloopy` works as well.
#
#   docker build -t openloopy .
#   docker run -p 127.0.0.1:8360:8360 -e OPENLOOPY_TOKEN=... -v openloopy-jobs:/jobs openloopy
#   docker run --rm -v "$PWD:/jobs" --user "$(id -u):$(id -g)" openloopy generate me.jpg speech.mp3 -o talking.mp4
#
# On an NVIDIA card (its container toolkit must be installed), with the index of the CUDA that the driver knows:
#
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t openloopy:cuda .
#   docker run --gpus all -p 127.0.0.1:8360:8360 -e OPENLOOPY_TOKEN=... openloopy:cuda
#
# The service listens on every address of the container, hence the token; `-p 127.0.0.1:...` publishes it to this
# machine alone. Choose another port there, not by `--port`: the health check asks 8360.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm


FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


FROM ${PYTHON_IMAGE} AS environment
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY constraints.txt ./
# torch comes first and alone: its index has little else. Its headers and its tests' programs are left out. No pip goes
# into the environment; that of the base image installs from outside.
RUN python -m venv --without-pip /opt/openloopy \
    && grep '^torch==' constraints.txt > torch.txt \
    && python -m pip --python /opt/openloopy/bin/python install --no-cache-dir --no-deps \
        --index-url "${TORCH_INDEX}" --requirement torch.txt \
    && rm -rf /opt/openloopy/lib/python3.*/site-packages/torch/include \
        /opt/openloopy/lib/python3.*/site-packages/torch/test \
        /opt/openloopy/lib/python3.*/site-packages/torch/bin/test_*
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/openloopy/bin/python install --no-cache-dir --constraint constraints.txt \
        "openloopy[app,serve,credentials,heic,jxl] @ file://$(echo /wheels/openloopy-*.whl)"


FROM ${PYTHON_IMAGE}
RUN useradd --create-home --uid 10001 --user-group openloopy \
    && install --directory --owner openloopy --group openloopy /jobs
COPY --from=environment /opt/openloopy /opt/openloopy
# Idle threads that spin starve the others; and nothing is fetched or sent while it runs.
ENV PATH=/opt/openloopy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    HF_HUB_OFFLINE=1 \
    GRADIO_ANALYTICS_ENABLED=False
USER 10001:10001
WORKDIR /jobs
VOLUME ["/jobs"]
EXPOSE 8360
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8360, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["openloopy"]
CMD ["serve", "--host", "0.0.0.0"]
