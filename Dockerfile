# The daemon, its commands and the simulator in one image: `docker build -t unhurried .`, docs/deploying.md has the rest.
# A base of your own (`--build-arg BASE_IMAGE=…`) is a glibc image whose `python` is 3.11 or later and has pip and venv.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Dependencies have layers of their own, which change with the lock files only. Wheels only: nothing is ever compiled.
RUN python -m venv --without-pip /app
COPY requirements requirements
RUN python -m pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && python -m pip --python /app/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements/run.txt

COPY . .
RUN python -m hatchling build --target wheel --directory dist \
    && python -m pip --python /app/bin/python install --no-compile --no-index --no-deps dist/*.whl
# Read-only at run time, so compiled now; unchecked, because files that are copied into an image may get other times.
RUN /app/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="unhurried" \
      org.opencontainers.image.description="A sidecar for Claude work that is in no hurry: a durable local queue in front of the Message Batches API." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

# The numbers are part of the interface: whoever shares the socket joins the group 10001, whoever mounts a disk gives it
# to 10001. pip goes, nothing is installed here any more. Slim images come without bytecode of the standard library,
# and every health check would compile it anew.
RUN groupadd --gid 10001 unhurried \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/unhurried --no-create-home --shell /usr/sbin/nologin unhurried \
    && install --directory --owner 10001 --group 10001 --mode 0750 /run/unhurried \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/unhurried \
    && find /usr \( -path '*/bin/pip*' -o -path '*/python3*/*-packages/*' -o -path '*/ensurepip/*' \) -delete \
    && python -m compileall -q --invalidation-mode unchecked-hash -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

COPY --from=build /app /app

# Named here, so that a volume with the wrong owner is an error and not a database that ends with the container.
ENV PATH=/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    UNHURRIED_SOCKET=/run/unhurried/unhurried.sock \
    UNHURRIED_DATABASE=/var/lib/unhurried/unhurried.db
VOLUME ["/run/unhurried", "/var/lib/unhurried"]
USER 10001:10001
WORKDIR /var/lib/unhurried

# The daemon is process 1 and gets the signal itself. It stops within UNHURRIED_GRACE_S; give `docker stop` longer.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["unhurried", "health"]
ENTRYPOINT ["unhurried"]
CMD ["serve"]
