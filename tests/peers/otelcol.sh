#!/bin/sh
# OpenTelemetry Collector 0.155.0, built from otelcol/: three minutes of two processors the first time.
. "$(dirname -- "$0")/lib.sh"

program=$PEERS/otelcol-0.155.0
print_if_there "$program"
about_to_install "the OpenTelemetry Collector"
print_if_there "$program"
command -v go >/dev/null || apt install --no-install-recommends golang-go
cd "$here/otelcol"
CGO_ENABLED=0 GOFLAGS='-buildvcs=false -mod=readonly' go build -trimpath -ldflags '-s -w' -o "$program.new" . >&2 ||
    fail "the OpenTelemetry Collector cannot be built with $(go env GOVERSION); it needs Go 1.26, which Go 1.21 can get"
mv "$program.new" "$program"
print_if_there "$program"
