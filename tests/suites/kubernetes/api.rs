//! An API server that is away, and watches that fall silent.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::{
    relay::Relay,
    scene::{Place, Scene, task},
};

pub fn silent(place: &Place<'_>) {
    let relay = Relay::at("127.0.0.1:0");
    let mut scene = relay.scene(place);
    scene.claim(&task("T1", "sleep 3"));
    place.running();
    relay.fall_silent();
    // 90 s without a byte are too many: what was missed is in the list.
    scene.completes();
    place.has_jobs(0);
    scene.leave();
}

pub fn away(place: &Place<'_>) {
    let relay = Relay::at("127.0.0.1:0");
    let mut scene = relay.scene(place);
    scene.claim(&task("T1", "sleep 3"));
    place.running();
    scene.claim(&task("T2", ""));
    relay.away_while(|| {
        for _ in 0..12 {
            thread::sleep(Duration::from_secs(5));
            scene.answer();
        }
    });
    for _ in 0..2 {
        scene.completes();
    }
    place.has_jobs(0);
    assert!(scene.is_silent(), "each end is told once");
    scene.leave();
}

pub fn restarted(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", "sleep 2"));
    place.running();
    place.cluster.signal("kube-apiserver", Signal::KILL);
    // It ends while nobody can be asked; another one is claimed then, too.
    scene.claim(&task("T2", ""));
    scene.completes();
    scene.completes();
    place.cluster.is_back();
    place.has_jobs(0);
    // One that only stands still.
    scene.claim(&task("T3", "sleep 2"));
    place.running();
    place.cluster.signal("kube-apiserver", Signal::STOP);
    thread::sleep(Duration::from_secs(5));
    place.cluster.signal("kube-apiserver", Signal::CONT);
    scene.completes();
    place.has_jobs(0);
    assert!(scene.session.recv_within(Duration::from_secs(1)).is_none(), "each end is told once");
    scene.leave();
}
