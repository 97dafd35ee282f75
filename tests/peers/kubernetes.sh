#!/bin/sh
# Kubernetes 1.34.4, built with Go from kubernetes/: etcd, all of Kubernetes and CoreDNS in one program. With it what a node
# needs, as Debian has it; unpacked, not installed: an installed containerd would start as a service. Prints the program, the
# folder of the node's programs, an archive of the images that every cluster needs, and the folder of the Prometheus Operator's
# kinds, version 0.85.0.
. "$(dirname -- "$0")/lib.sh"

version=1.34.4
program=$PEERS/kubernetes-$version
node=$PEERS/kubernetes-node
kinds=$PEERS/prometheus-operator-0.85.0
done_if_there() {
    [ ! -x "$program" ] || [ ! -d "$node" ] || [ ! -d "$kinds" ] || {
        printf '%s\n' "$program" "$node" "$node/images.tar" "$kinds"
        exit 0
    }
}

# Two images of one layer, which is busybox: what the chart's test asks for, and what holds a Pod's namespaces.
images() {
    mkdir -p root/bin root/etc root/tmp
    chmod 1777 root/tmp
    cp usr/bin/busybox root/bin/
    for applet in $(usr/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "root/bin/$applet"
    done
    tar -C root --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf layer.tar .
    layer=$(sha256sum layer.tar | cut -d' ' -f1)
    architecture=$(dpkg --print-architecture)
    for image in pause busybox; do
        case $image in
        pause) command='"Entrypoint":["tail","-f","/dev/null"]' ;;
        busybox) command='"Cmd":["sh"]' ;;
        esac
        printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
            "$architecture" "$command" "$layer" >"$image.json"
    done
    cat >manifest.json <<'JSON'
[{"Config": "pause.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]},
 {"Config": "busybox.json", "RepoTags": ["docker.io/library/busybox:1.36"], "Layers": ["layer.tar"]}]
JSON
    tar -cf images.tar manifest.json pause.json busybox.json layer.tar
    rm -r root layer.tar manifest.json pause.json busybox.json
}

done_if_there
about_to_install Kubernetes
done_if_there
for command in ip:iproute2 iptables:iptables openssl:openssl; do
    command -v "${command%:*}" >/dev/null || apt install --no-install-recommends "${command#*:}"
done
if [ ! -d "$node" ]; then
    rm -rf "$node.new"
    mkdir "$node.new"
    cd "$node.new"
    apt download containerd runc containernetworking-plugins busybox-static
    for package in *.deb; do
        dpkg -x "$package" . || fail "Debian's package $package cannot be unpacked"
        rm "$package"
    done
    [ -x usr/bin/busybox ] || ln -s ../../bin/busybox usr/bin/busybox
    images
    mv "$node.new" "$node"
fi
need_go
if [ ! -d "$kinds" ]; then
    operator=$(go mod download -json github.com/prometheus-operator/prometheus-operator@v0.85.0 |
        sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    rm -rf "$kinds.new"
    mkdir "$kinds.new"
    for kind in podmonitors servicemonitors prometheusrules; do
        cp "$operator/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$kinds.new/"
    done
    mv "$kinds.new" "$kinds"
fi
if [ ! -x "$program" ]; then
    cd "$here/kubernetes"
    of=k8s.io/component-base/version
    CGO_ENABLED=0 GOFLAGS='-buildvcs=false -mod=readonly' go build -trimpath -ldflags "-s -w -X $of.gitVersion=v$version
        -X $of.gitMajor=1 -X $of.gitMinor=34 -X $of.gitTreeState=clean" -o "$program.new" . >&2 ||
        fail "Kubernetes cannot be built with $(go env GOVERSION); it needs Go 1.24, which Go 1.21 can get"
    mv "$program.new" "$program"
fi
done_if_there
fail "Kubernetes is not where it was built"
