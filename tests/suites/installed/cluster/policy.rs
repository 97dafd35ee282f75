//! What a network plugin makes of a `NetworkPolicy`: rules of the kernel where the packets of its Pods pass.
//!
//! The plugins that enforce policies bring machines of their own (eBPF, Open vSwitch) or cannot be had as a Go module. What a
//! policy means is defined by its API, and this is all of it that the chart uses, on the object that the API server gives back.

use std::fmt::Write as _;

use oz_worker_tests::{
    chart::text,
    peers::kubernetes::{Cluster, said},
    process::with_input,
};
use serde_json::Value;

/// Enforces this policy on the Pods that there are now.
pub fn enforce(cluster: &Cluster, policy: &Value) {
    let namespace = text(&policy["metadata"]["namespace"]);
    let spec = &policy["spec"];
    assert_eq!(spec["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    // What answers is let through; what is let through in one direction may be stopped in the other.
    let mut rules = "*filter\n:POLICY-IN -\n:POLICY-OUT -\n".to_owned();
    for chain in ["POLICY-IN", "POLICY-OUT"] {
        writeln!(rules, "-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN").unwrap();
    }
    for pod in addresses(cluster, namespace, &spec["podSelector"]) {
        for (chain, pod_is, peer_is, direction, peers) in
            [("POLICY-IN", "-d", "-s", "ingress", "from"), ("POLICY-OUT", "-s", "-d", "egress", "to")]
        {
            for rule in spec[direction].as_array().into_iter().flatten() {
                for peer in peers_of(cluster, namespace, &rule[peers]) {
                    for port in rule["ports"].as_array().into_iter().flatten() {
                        let protocol = text(&port["protocol"]).to_lowercase();
                        let port = &port["port"];
                        let line = format!("{pod_is} {pod} {peer_is} {peer} -p {protocol} --dport {port}");
                        writeln!(rules, "-A {chain} {line} -j RETURN").unwrap();
                    }
                }
            }
            writeln!(rules, "-A {chain} {pod_is} {pod} -j REJECT").unwrap();
        }
    }
    rules.push_str("COMMIT\n");
    let mut restore = cluster.in_its_network("iptables-restore");
    said(with_input(restore.arg("--noflush"), &rules)).unwrap_or_else(|error| panic!("{error}: {rules}"));
    hook(cluster, "--insert");
}

/// Enforces nothing any more.
pub fn relax(cluster: &Cluster) {
    hook(cluster, "--delete");
}

/// Pods' packets to others and to the node pass the chains. What the node sends to its own Pods (probes) is always let through.
fn hook(cluster: &Cluster, how: &str) {
    for (from, to) in [("FORWARD", "POLICY-IN"), ("FORWARD", "POLICY-OUT"), ("INPUT", "POLICY-OUT")] {
        let iptables = |how: &str| cluster.in_its_network("iptables").args([how, from, "--jump", to]).output().unwrap();
        if how == "--delete" || !iptables("--check").status.success() {
            said(iptables(how)).unwrap();
        }
    }
}

/// The networks that a rule's peers are; without any, all of them.
fn peers_of(cluster: &Cluster, namespace: &str, peers: &Value) -> Vec<String> {
    let Some(peers) = peers.as_array() else { return vec!["0.0.0.0/0".to_owned()] };
    peers.iter().flat_map(|peer| networks(cluster, namespace, peer)).collect()
}

fn networks(cluster: &Cluster, namespace: &str, peer: &Value) -> Vec<String> {
    if let Some(cidr) = peer["ipBlock"]["cidr"].as_str() {
        return vec![cidr.to_owned()];
    }
    let namespaces = if peer["namespaceSelector"].is_null() {
        vec![namespace.to_owned()]
    } else {
        let names = cluster.kubectl(&format!("get namespaces {} -o name", selector(&peer["namespaceSelector"])));
        names.lines().map(|name| name.trim_start_matches("namespace/").to_owned()).collect()
    };
    namespaces.iter().flat_map(|namespace| addresses(cluster, namespace, &peer["podSelector"])).collect()
}

/// Addresses of the Pods of a namespace that a selector selects.
fn addresses(cluster: &Cluster, namespace: &str, selecting: &Value) -> Vec<String> {
    let pods = cluster.get(&format!("pods -n {namespace} {}", selector(selecting)));
    let addresses = pods["items"].as_array().unwrap().iter().filter_map(|pod| pod["status"]["podIP"].as_str());
    addresses.map(str::to_owned).collect()
}

/// A selector, as kubectl takes it; nothing for one that selects all.
fn selector(selector: &Value) -> String {
    assert!(selector["matchExpressions"].is_null(), "the chart has labels only: {selector}");
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={}", text(value))).collect();
    if labels.is_empty() { String::new() } else { format!("-l {}", labels.join(",")) }
}
