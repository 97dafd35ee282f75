//! Backend `kubernetes` on a real cluster. It starts one, which nobody wants of `cargo test`, so it runs when it is asked for:
//! `cargo test -p oz-worker-tests --test kubernetes --test kubernetes_on_async_std -- --ignored --nocapture --test-threads=1`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod access;
mod adoption;
mod api;
mod faults;
mod images;
mod nodes;
mod pods;
mod relay;
mod scene;
mod tasks;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use oz_worker_tests::peers::kubernetes::Cluster;
use scene::{Chapter, Place};

/// What happens on the cluster, side by side: the longest first.
const CHAPTERS: [(&str, Chapter); 31] = [
    ("a watch that falls silent loses nothing", api::silent),
    ("an API server that is away for a minute loses nothing", api::away),
    ("a plugin that expires, fails or hangs fails no task", access::plugin),
    ("a Secret that comes late is waited for, one that never comes is not", pods::late_secret),
    ("a registry that comes back is waited for, a tag that does not exist is not", images::later),
    ("a Job whose worker goes later is taken up, and let go for another worker", adoption::gone_later),
    ("an image that cannot be pulled is told for what it is", images::never),
    ("what a killed worker left is taken up, and ends once", adoption::killed),
    ("a node that comes late is waited for", nodes::scaled_up),
    ("a watch whose version is gone loses nothing, and lists once a second at most", faults::gone),
    ("what a worker leaves that dies in its preflight goes by itself", adoption::in_preflight),
    ("a quota that is freed, or never is", pods::quota),
    ("a Pod or a Job that somebody deletes", pods::deleted),
    ("what ended meanwhile is told once", adoption::ended_meanwhile),
    ("an answer that is lost, a webhook that is late and a busy server make one Job", faults::answers),
    ("of two workers one takes up what a third left", adoption::of_two),
    ("an older Role takes up without a mark", adoption::older_role),
    ("each verb that a Role lacks is named", access::roles),
    ("a token that is rotated is read anew", access::rotation),
    ("an authority that is replaced is read anew", access::authority),
    ("kubeconfigs of several files, another user and a proxy are what kubectl makes of them", access::kubeconfigs),
    ("a Job that is suspended waits", pods::suspended),
    ("a task that fails gives its code, and its output without secrets", tasks::fails),
    ("a task that is cancelled is gone, and never starts", tasks::cancelled),
    ("sidecars are copied; image volumes need a newer node", tasks::sidecars),
    ("ids of any script and length give names", tasks::names),
    ("what a template or a webhook adds decides nothing", tasks::companions),
    ("a drained Pod is evicted", pods::evicted),
    ("a task that had exited keeps its end when its Pod is drained", nodes::drained_after_its_end),
    ("a Pod that a more urgent one pushes out is evicted", nodes::preempted),
    ("a Pod that the kubelet refuses is told at once", nodes::refused),
];

/// What happens before and after all these, alone.
const FIRST: [(&str, Chapter); 2] =
    [("a task runs and nothing of it is left", tasks::plain), ("a deadline is told for one", tasks::deadline)];
const LAST: [(&str, Chapter); 3] = [
    ("an API server that is killed, or stands still, loses nothing", api::restarted),
    ("a Pod that a taint drives out is evicted", nodes::tainted),
    ("a Pod whose node is lost is evicted once, and the node comes back", nodes::lost),
];

/// How many go on at once.
const SIDE_BY_SIDE: usize = 5;

#[test]
#[ignore = "starts a Kubernetes; .ci/run asks for it"]
fn on_a_real_cluster() {
    let Some(cluster) = Cluster::up(&[]) else { return };
    let only = std::env::var("CHAPTER").unwrap_or_default();
    let begun = Instant::now();
    let mut number = 0;
    let mut failed = Vec::new();
    for (chapters, at_once) in [(&FIRST[..], 1), (&CHAPTERS[..], SIDE_BY_SIDE), (&LAST[..], 1)] {
        let is_wanted = |title: &str| only.split('|').any(|only| title.contains(only));
        let chapters: Vec<_> = chapters.iter().filter(|(title, _)| is_wanted(title)).collect();
        failed.extend(run(&cluster, &chapters, at_once, number));
        number += chapters.len();
    }
    println!("{:.1} s in all", begun.elapsed().as_secs_f64());
    assert_eq!(failed, [""; 0], "chapters that failed");
}

/// Runs chapters, as many at once; gives those that failed.
fn run(cluster: &Cluster, chapters: &[&(&'static str, Chapter)], at_once: usize, from: usize) -> Vec<&'static str> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((title, chapter)) = chapters.get(number) else { return failed };
            let begun = Instant::now();
            let ended =
                catch_unwind(AssertUnwindSafe(|| chapter(&Place::new(cluster, &format!("t{}", from + number)))));
            let mark = if ended.is_ok() { "" } else { " FAILED" };
            println!("{:.1} s: {title}{mark}", begun.elapsed().as_secs_f64());
            failed.extend(ended.is_err().then_some(*title));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}
