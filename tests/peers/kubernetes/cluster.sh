#!/bin/sh
# Runs a Kubernetes cluster of one node until its standard input ends, and then leaves nothing behind:
#
#   sh cluster.sh PROGRAM NODE ARCHIVE…
#
# The first two are what ../kubernetes.sh prints, the rest docker-save archives of the images that there shall be. The first
# line on standard output names the kubeconfig, the second says `ready`. As root, one at a time.
#
# All of it runs in namespaces of its own for processes, mounts and the network: with the last process they are gone, and with
# them mounts, interfaces and rules. This machine is 198.18.0.1 for the Pods, and reaches Pods (198.18.1.0/24), Services
# (198.18.2.0/24) and the API (198.18.0.2:6443): addresses that are set aside for tests (RFC 2544).
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
link=oz-kubernetes

exec 9>"${TMPDIR:-/tmp}/oz-kubernetes.lock"
flock 9
state=$(mktemp -d "${TMPDIR:-/tmp}/oz-kubernetes.XXXXXX")
# A terminal's Ctrl-C ends the program below; what follows it must still happen.
trap : INT TERM HUP

# Where the kubelet makes its control groups: one hierarchy, or one for each controller.
control_groups() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup/oz-kubernetes
    else
        for hierarchy in /sys/fs/cgroup/*/; do
            echo "${hierarchy}oz-kubernetes"
        done
    fi
}

leave() {
    ip link delete $link 2>/dev/null || :
    # The kernel may need a moment until it counts a killed process no more.
    for attempt in $(seq 100); do
        control_groups | while read -r group; do
            [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || :
        done
        # shellcheck disable=SC2046
        ls -d $(control_groups) >/dev/null 2>&1 || break
        sleep 0.1
    done
    rmdir /var/lib/kubelet 2>/dev/null || :
    rm -rf "$state"
}
trap leave EXIT

# A bare `cpuset` has no processor in it.
control_groups | while read -r group; do
    mkdir -p "$group"
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$group/$file" ] || cat "$group/../$file" >"$group/$file"
    done
done
mkdir -p /var/lib/kubelet
mkdir "$state/archives"
program=$1 node=$2
shift 2
for archive in "$@"; do
    ln -s "$archive" "$state/archives/$#"
    shift
done
sh "$here/certificates.sh" "$state"
echo "$state/admin.kubeconfig"

# The inner ends of everything: the network first, whose other end is in the namespace of this process.
unshare --net --mount sh -eu -c '
    link=$1 outside=$2
    shift 2
    ip link add eth0 type veth peer name "$link" netns "$outside"
    ip addr add 198.18.0.2/30 dev eth0
    ip link set lo up
    ip link set eth0 up
    nsenter --target "$outside" --net sh -eu -c "
        ip addr add 198.18.0.1/30 dev $link
        ip link set $link up
        ip route add 198.18.1.0/24 via 198.18.0.2
        ip route add 198.18.2.0/24 via 198.18.0.2"
    exec unshare --pid --fork --kill-child --mount-proc sh -eu "$@"
' - $link $$ "$here/node.sh" "$here" "$state" "$program" "$node" 9>&- || exit 1
