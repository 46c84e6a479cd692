# The `ganline` command with all that it needs, on the CPU:
#     docker build --tag ganline .
# For NVIDIA GPUs, name an index of CUDA wheels that has the lock's version of torch:
#     docker build --tag ganline --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# How to run it, and what of this was ever tried: infra/README.md.

FROM python:3.11-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/ganline
ENV PATH=/opt/ganline/bin:$PATH
WORKDIR /src

# Dependencies come before the code: they take minutes to install and change seldom.
COPY pyproject.toml requirements.lock ./

# The lock says which version. A suffix such as +cpu would say which build, which is TORCH_INDEX's to say.
RUN sed -E 's/^(torch==[^+]+)[+].*$/\1/' requirements.lock > pins.txt \
    && sed -n '/^torch==/p' pins.txt > torch.txt \
    && test -s torch.txt

# Torch by itself and without its dependencies: that index also carries packages that belong to PyPI.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps --index-url "$TORCH_INDEX" --requirement torch.txt

# The lock pins the development tools too. As constraints it pins every version and they stay out.
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
    && pip install --constraint pins.txt --requirement requirements.txt setuptools

COPY . .
RUN pip install --no-deps --no-build-isolation . && pip check


FROM python:3.11-slim

# A fixed number, so that Kubernetes can see that it is not root and a bind mount can be given to it.
# The storage folder has its owner before it becomes a volume: a new named volume takes that over.
RUN useradd --create-home --uid 10001 ganline \
    && install --directory --owner=ganline --group=ganline /storage

# At the same path as it was built: a venv's scripts name their interpreter.
COPY --from=build /opt/ganline /opt/ganline

ENV PATH=/opt/ganline/bin:$PATH GANLINE_STORAGE=/storage
VOLUME /storage
USER 10001
# Where logs and caches go when the storage root is an object store: it must be writable.
WORKDIR /home/ganline

# No health check: this is a command that ends, not a service.
ENTRYPOINT ["ganline"]
CMD ["--help"]
