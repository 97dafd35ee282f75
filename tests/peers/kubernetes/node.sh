#!/bin/sh
# The cluster from within: process 1 of its namespaces. Ends when its standard input does, or one of its programs; all the others
# end with it.
set -eu
here=$1 state=$2 program=$3 node=$4

# What is ours is at /run/cluster, so that no file here needs to know where that is.
mkdir "$state/config" "$state/programs" "$state/log" "$state/registries"
cp "$here"/config/* "$state/config/"
for name in coredns etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do
    ln -s "$program" "$state/programs/$name"
done
ln -s "$node" "$state/node"
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir /run/cluster /run/netns
mount --bind "$state" /run/cluster
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib/kubelet
mount --make-rshared /
cd /run/cluster
export PATH="/run/cluster/programs:/run/cluster/node/usr/bin:/run/cluster/node/usr/sbin:$PATH" KUBECONFIG=/run/cluster/admin.kubeconfig

# The kubelet wants these for the whole machine, one of them so that it stops after a fault of the kernel. It is shown what it
# wants to see.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/cluster/config/$(echo "${setting%=*}" | tr / .)
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done
echo 1 >/proc/sys/net/ipv4/ip_forward

# run NAME COMMAND…
run() {
    name=$1
    shift
    {
        "$@" >"/run/cluster/log/$name" 2>&1 </dev/null || :
        echo "$name has ended:" >&2
        tail -n 5 "/run/cluster/log/$name" >&2
        kill 1
    } &
}
# The same of one that is started again when somebody kills it, as a node does with its static Pods.
keep() {
    name=$1
    shift
    while :; do
        "$@" >>"/run/cluster/log/$name" 2>&1 </dev/null || :
    done &
}
trap 'exit 1' TERM

# until_true WHAT COMMAND…: for a minute.
until_true() {
    what=$1
    shift
    for attempt in $(seq 300); do
        ! "$@" >/run/cluster/log/last 2>&1 || return 0
        sleep 0.2
    done
    echo "not after a minute: $what" >&2
    tail -n 3 /run/cluster/log/* >&2
    exit 1
}

run etcd etcd --data-dir=/run/cluster/etcd --unsafe-no-fsync --log-level=warn
keep apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=198.18.0.2 --advertise-address=198.18.0.2 \
    --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key --tls-sni-cert-key=renamed.crt,renamed.key \
    --client-ca-file=ca.crt --anonymous-auth=false \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --service-cluster-ip-range=198.18.2.0/24 \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=accounts.pub \
    --service-account-signing-key-file=accounts.key --kubelet-preferred-address-types=InternalIP \
    --kubelet-client-certificate=apiserver-kubelet-client.crt --kubelet-client-key=apiserver-kubelet-client.key \
    --audit-log-path=/run/cluster/log/audit --audit-policy-file=config/audit.yaml
run containerd containerd --config config/containerd.toml
until_true "containerd answers" ctr version
for archive in archives/*; do
    ctr -n k8s.io images import "$archive" >/dev/null
done
until_true "the API server is ready" kubectl get --raw /readyz
run controller-manager kube-controller-manager --kubeconfig=controller-manager.kubeconfig --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file=accounts.key --root-ca-file=ca.crt \
    --node-monitor-grace-period=30s
run scheduler kube-scheduler --kubeconfig=scheduler.kubeconfig --authentication-kubeconfig=scheduler.kubeconfig \
    --authorization-kubeconfig=scheduler.kubeconfig --leader-elect=false
run kubelet kubelet --config=config/kubelet.yaml --kubeconfig=kubelet.kubeconfig --hostname-override=node1 --node-ip=198.18.0.2
run proxy kube-proxy --kubeconfig=proxy.kubeconfig --hostname-override=node1 --cluster-cidr=198.18.1.0/24 \
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
run coredns coredns -conf config/Corefile
until_true "there is a service account" kubectl get serviceaccount default
until_true "the node is ready" kubectl wait --for=condition=Ready node/node1 --timeout=0
echo ready
read -r end || :
