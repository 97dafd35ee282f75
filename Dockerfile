# The image of the worker: the program, the libraries that it is linked with, certificates, time zones, a user. No shell.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=0.1.0 --sbom=true -t oz-agent-worker:0.1.0 .
#
# SOURCE_DATE_EPOCH is the time of every file, and no path of the build is in the program. docs/install-docker.md.

# Debian with Rust: the oldest glibc that the program needs is the one it brings.
ARG BUILD_IMAGE=docker.io/library/rust:1.89-bookworm

FROM ${BUILD_IMAGE} AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /src
COPY . .
# Every path of the build is the same wherever it runs; the lock file says what goes in.
ENV CARGO_HOME=/cargo CARGO_INCREMENTAL=0 RUSTFLAGS="--remap-path-prefix=/src= --remap-path-prefix=/cargo=cargo"
RUN cargo build --locked --release --package oz-worker-runtime-smol --bin oz-agent-worker --target-dir /target
RUN set -eu; root=/image; \
    mkdir -p $root/usr/bin $root/etc/ssl/certs $root/usr/share $root/tmp $root/var/lib/oz/workspaces; \
    cp /target/release/oz-agent-worker $root/usr/bin/; \
    # The loader and the libraries, where the program looks for them.
    ldd /target/release/oz-agent-worker | grep -o '/[^ ]*' | while read -r library; do \
        mkdir -p "$root$(dirname "$library")"; cp -L "$library" "$root$library"; \
    done; \
    cp -L /etc/ssl/certs/ca-certificates.crt $root/etc/ssl/certs/; \
    cp -R /usr/share/zoneinfo $root/usr/share/; rm -rf $root/usr/share/zoneinfo/right $root/usr/share/zoneinfo/posix; \
    echo 'oz:x:10001:10001:Oz agent worker:/var/lib/oz:/usr/bin/oz-agent-worker' >$root/etc/passwd; \
    echo 'oz:x:10001:' >$root/etc/group; \
    echo 'hosts: files dns' >$root/etc/nsswitch.conf; \
    chmod 1777 $root/tmp; chown -R 10001:10001 $root/var/lib/oz; \
    find $root -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

FROM scratch
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oz-agent-worker" \
      org.opencontainers.image.description="Runs Oz tasks on your own machines" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /image /
USER 10001:10001
WORKDIR /var/lib/oz
ENV PATH=/usr/local/bin:/usr/bin:/bin
ENTRYPOINT ["/usr/bin/oz-agent-worker"]
