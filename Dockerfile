# pointcept for machines with an NVIDIA GPU:
#   docker build -t pointcept .
#   docker run --gpus all --shm-size 16g -v "$PWD:/work" --user "$(id -u):$(id -g)" pointcept predict --help
# PyTorch 2.11 with CUDA 13 has trained on H100. For a driver older than 580:
#   --build-arg TORCH_IMAGE=pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime
ARG TORCH_IMAGE=pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime
FROM ${TORCH_IMAGE}

# Triton compiles its launcher with the C compiler of the machine.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# The build of PyTorch in the image stays: pip must not replace it by another.
COPY . /tmp/pointcept
RUN python -c "import torch; print(f'torch=={torch.__version__}')" > /tmp/torch.txt \
    && pip install --no-cache-dir --break-system-packages -c /tmp/torch.txt "/tmp/pointcept[simulator,plot]" \
    && rm -rf /tmp/pointcept /tmp/torch.txt

# Any --user may write here: caches of Triton and matplotlib; data and results are mounted at /work.
RUN useradd --create-home pointcept && mkdir -p /cache /work && chmod 1777 /cache /work
ENV HOME=/cache LOGNAME=pointcept TRITON_CACHE_DIR=/cache/triton MPLCONFIGDIR=/cache/matplotlib
USER pointcept
WORKDIR /work
ENTRYPOINT ["pointcept"]
CMD ["--help"]
