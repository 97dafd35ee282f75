#!/bin/sh
# Prometheus and promtool, as Debian has them. Unpacked, not installed: an installed one would start as a service.
. "$(dirname -- "$0")/lib.sh"

print_if_there /usr/bin/prometheus /usr/bin/promtool
unpacked=$PEERS/prometheus
print_if_there "$unpacked/usr/bin/prometheus" "$unpacked/usr/bin/promtool"
about_to_install Prometheus
print_if_there "$unpacked/usr/bin/prometheus" "$unpacked/usr/bin/promtool"
rm -rf "$unpacked.new" "$unpacked"
mkdir "$unpacked.new"
cd "$unpacked.new"
apt download prometheus
dpkg -x prometheus_*.deb . || fail "Debian's package of Prometheus cannot be unpacked"
rm prometheus_*.deb
mv "$unpacked.new" "$unpacked"
print_if_there "$unpacked/usr/bin/prometheus" "$unpacked/usr/bin/promtool"
