# The image of the worker: the program, the libraries that it is linked with, certificates, time zones, a user. No shell.
#
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t oz-agent-worker:0.1.0 .
#   docker build --target sbom --output . .
#
# The second writes what is in it, as CycloneDX. Built twice, the layer is the same: SOURCE_DATE_EPOCH is the time of every
# file, and no path of the build is in the program. docs/install-docker.md.

# Debian with Rust: the oldest glibc that the program needs is the one it brings.
ARG BUILD_IMAGE=docker.io/library/rust:1.89-bookworm

# On the processor that the machine has, whatever the image is for: emulated, the compiler would take ten times as long.
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS tools
ARG BUILDARCH
ARG TARGETARCH
# `machine` is the processor as GNU and Rust call it, `compiler` what links for it: Debian's own, with Debian's own libraries.
RUN set -eu; \
    case $TARGETARCH in \
    amd64) machine=x86_64 compiler=x86-64-linux-gnu ;; \
    arm64) machine=aarch64 compiler=aarch64-linux-gnu ;; \
    *) echo "there is no worker for $TARGETARCH: linux/amd64 and linux/arm64 are the platforms" >&2; exit 1 ;; \
    esac; \
    printf 'machine=%s\n' "$machine" >/platform; \
    [ "$BUILDARCH" != "$TARGETARCH" ] || exit 0; \
    if ! command -v "$machine-linux-gnu-gcc"; then \
        dpkg --add-architecture "$TARGETARCH"; apt-get update; \
        apt-get install -y --no-install-recommends "gcc-$compiler" "libc6-dev:$TARGETARCH" "libgcc-s1:$TARGETARCH"; \
    fi; \
    if command -v rustup; then rustup target add "$machine-unknown-linux-gnu"; fi

# Every path of the build is the same wherever it runs.
ENV CARGO_HOME=/cargo CARGO_INCREMENTAL=0 RUSTFLAGS="--remap-path-prefix=/src= --remap-path-prefix=/cargo=cargo" \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# The lock file says what goes in.
RUN . /platform; printf 'cargo build --locked --release --package oz-worker-runtime-smol --bin oz-agent-worker %s\n' \
    "--target $machine-unknown-linux-gnu --target-dir /target" >/build
WORKDIR /src

# The manifests, and nothing in the programs: as long as these are the same, so is what comes of the dependencies.
FROM tools AS manifests
COPY . .
RUN find . -type f ! -name 'Cargo.*' ! -name lib.rs ! -name main.rs ! -name build.rs ! -path '*/src/bin/*' -delete; \
    find . -name '*.rs' -exec sh -c 'for file; do echo "fn main() { }" >"$file"; done' _ {} +

FROM tools AS program
COPY --from=manifests /src .
# Crates that were fetched once are kept beside the image.
RUN --mount=type=cache,target=/cargo/registry,sharing=locked sh -e /build
COPY . .
ARG REVISION
# Every file is newer than what was made of an empty one.
RUN --mount=type=cache,target=/cargo/registry,sharing=locked set -eu; . /platform; \
    find . -type f -exec touch {} +; \
    OZ_WORKER_COMMIT="$REVISION" sh -e /build; \
    cp "/target/$machine-unknown-linux-gnu/release/oz-agent-worker" /

# All that is in the image.
FROM program AS content
ARG SOURCE_DATE_EPOCH=0
RUN set -eu; . /platform; root=/image; libraries=/lib/$machine-linux-gnu; \
    mkdir -p $root/usr/bin "$root$libraries" $root/etc/ssl/certs $root/usr/share $root/tmp $root/var/lib/oz/workspaces; \
    cp /oz-agent-worker $root/usr/bin/; \
    # The libraries and the loader, where the program looks for them; `ldd` knows no other processor than its own.
    for library in $(readelf -d /oz-agent-worker | sed -n 's/.*(NEEDED).*\[\(lib.*\)\]/\1/p'); do \
        cp -L "$libraries/$library" "$root$libraries/"; \
    done; \
    loader=$(readelf -l /oz-agent-worker | sed -n 's/.*program interpreter: \(.*\)\]/\1/p'); \
    install -D "$loader" "$root$loader"; \
    cp -L /etc/ssl/certs/ca-certificates.crt $root/etc/ssl/certs/; \
    cp -R /usr/share/zoneinfo $root/usr/share/; rm -rf $root/usr/share/zoneinfo/right $root/usr/share/zoneinfo/posix; \
    echo 'oz:x:10001:10001:Oz agent worker:/var/lib/oz:/usr/bin/oz-agent-worker' >$root/etc/passwd; \
    echo 'oz:x:10001:' >$root/etc/group; \
    echo 'hosts: files dns' >$root/etc/nsswitch.conf; \
    chmod 1777 $root/tmp; chown -R 10001:10001 $root/var/lib/oz; \
    find $root -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

# What cargo says is linked for this platform, and the packages of Debian that the other files are from.
FROM manifests AS inventory
ARG TARGETARCH
RUN command -v jq || { apt-get update && apt-get install -y --no-install-recommends jq; }
COPY packaging/sbom.jq /
RUN --mount=type=cache,target=/cargo/registry,sharing=locked set -eu; . /platform; . /etc/os-release; \
    cargo tree --locked --package oz-worker-runtime-smol --target "$machine-unknown-linux-gnu" \
        --edges normal,no-proc-macro --prefix none --no-dedupe --format '{p}|{l}' >/crates; \
    dpkg-query --show --showformat '${Package}|${Version}|${Architecture}\n' \
        "libc6:$TARGETARCH" "libgcc-s1:$TARGETARCH" ca-certificates tzdata >/packages; \
    jq --null-input --rawfile crates /crates --rawfile packages /packages --arg distro "$ID-${VERSION_ID:-$VERSION_CODENAME}" \
        --arg rust "$(rustc --version | cut -d ' ' -f 2)" --from-file /sbom.jq >/oz-agent-worker.cdx.json

FROM scratch AS sbom
COPY --from=inventory /oz-agent-worker.cdx.json /

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oz-agent-worker" \
      org.opencontainers.image.description="Runs Oz tasks on your own machines" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=content /image /
USER 10001:10001
WORKDIR /var/lib/oz
ENV PATH=/usr/local/bin:/usr/bin:/bin
ENTRYPOINT ["/usr/bin/oz-agent-worker"]
