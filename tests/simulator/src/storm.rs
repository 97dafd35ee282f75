//! A run in two phases: in the first anything may break, in the second nothing does and everything must end well.

mod calm;
mod deeds;

use std::time::Duration;

use tungstenite::Message;

use crate::Options;
use crate::neighbour::Neighbour;
use crate::network::Cut;
use crate::pair::{self, Pair};
use crate::scene::{MACHINE, Scene};

/// Drives a scene through both phases.
pub async fn drive(scene: Scene, options: Options) {
    let neighbour = Neighbour::start(&scene);
    let pair = Pair::start(&scene).filter(|_| options.engine);
    let mut storm = Storm { tasks: 0, executions: 0, was_killed: false, neighbour, pair, scene };
    storm.break_things(options).await;
    if storm.scene.executor.chance(25) {
        storm.stop(true).await;
        if !storm.scene.runs_elsewhere() || !options.engine {
            return;
        }
        // What it could not remove the next one does.
        storm.heal();
        storm.restart().await;
    }
    storm.heal();
    storm.settle().await;
    storm.answers_in_time().await;
    storm.everything_ends().await;
    storm.stop(false).await;
    storm.the_second_leaves().await;
    storm.nothing_is_left().await;
}

struct Storm {
    scene: Scene,
    tasks: u32,
    executions: u32,
    /// Whether the worker was ever killed.
    was_killed: bool,
    /// Another worker on the same engine.
    neighbour: Option<Neighbour>,
    /// Another worker of the same id on the same cluster.
    pair: Option<Pair>,
}

impl Storm {
    async fn break_things(&mut self, options: Options) {
        let Scene { executor, network, server, machine, engine, cluster, .. } = self.scene.clone();
        let drawn = |wanted: bool| wanted && executor.chance(80);
        network.set_faulty(drawn(options.network));
        let addresses = executor.random(|random| random.u16(1..=6));
        network.set_addresses(addresses, executor.random(|random| random.u16(1..=addresses)));
        server.set_faulty(drawn(options.server));
        if let Some(Pair { second, .. }) = &self.pair {
            second.network.set_faulty(drawn(options.network));
            second.server.set_faulty(drawn(options.server));
            second.machine.lanes.set_faulty(drawn(options.blocking));
        }
        machine.processes.set_faulty(drawn(options.processes));
        machine.disk.set_faulty(drawn(options.disk));
        machine.lanes.set_faulty(drawn(options.blocking));
        if let Some(engine) = &engine {
            engine.set_faulty(drawn(options.engine));
        }
        if let Some(cluster) = &cluster {
            cluster.set_faulty(drawn(options.engine), drawn(options.engine));
        }
        let steps = executor.random(|random| random.u32(5..=60));
        for _ in 0..steps {
            executor.sleep(executor.duration(Duration::from_micros(10), Duration::from_secs(600))).await;
            self.act(options);
            if engine.is_some() {
                self.act_on_engine(options).await;
            }
            if cluster.is_some() {
                self.act_on_cluster(options).await;
            }
            if executor.chance(20) {
                self.scene.check_metrics();
                if let Some(Pair { second, .. }) = self.pair.as_ref().filter(|pair| pair.second.is_running()) {
                    second.check_metrics();
                }
            }
        }
    }

    /// One thing that happens.
    fn act(&mut self, options: Options) {
        let Scene { executor, server, .. } = &self.scene;
        match executor.random(|random| random.u32(..100)) {
            0..40 => drop(self.assign_new()),
            40..46 => self.assign_again(),
            46..52 => self.assign_anew(),
            52..62 => self.cancel(),
            62..66 => self.send_nonsense(),
            66..70 => self.assign_malformed(),
            70..72 => server.send(Message::Ping(vec![1, 2, 3].into())),
            // A burst, and a cancellation that overtakes the start.
            72..76 => (0..8).for_each(|_| drop(self.assign_new())),
            76..80 => {
                self.assign_new();
                self.cancel_task(&format!("T{}", self.tasks));
            }
            80..84 if options.server => server.close(),
            84..88 if options.server => {
                server.turn_deaf(executor.duration(Duration::from_millis(100), Duration::from_secs(120)));
            }
            88..92 if options.network => {
                let kinds = [Cut::Reset, Cut::HangUp, Cut::Silence, Cut::Deaf];
                server.cut(executor.random(|random| random.choice(kinds)).unwrap_or(Cut::Reset));
            }
            92..96 if options.network => self.outage(),
            96..98 if options.suspend => self.suspend(),
            98.. if options.blocking => self.hold_up(),
            _ => {}
        }
    }

    /// One thing that happens to the engine or to a worker on it.
    async fn act_on_engine(&mut self, options: Options) {
        let (Some(engine), Some(neighbour)) = (&self.scene.engine, &self.neighbour) else { return };
        match self.scene.executor.random(|random| random.u32(..100)) {
            0..25 if options.engine => engine.befall(),
            25..35 if options.engine => self.restart().await,
            35..42 if options.engine => neighbour.kill(),
            42..52 => neighbour.assign(),
            52..57 => neighbour.stop(false),
            _ => {}
        }
    }

    /// One thing that happens to the cluster or to the worker on it.
    async fn act_on_cluster(&mut self, options: Options) {
        let Some(cluster) = self.scene.cluster.clone().filter(|_| options.engine) else { return };
        match self.scene.executor.random(|random| random.u32(..100)) {
            0..50 => cluster.befall(),
            50..55 => self.restart().await,
            55..60 if self.pair.is_some() => self.replace().await,
            _ => {}
        }
    }

    /// The worker is killed, if it has not left, and another one begins in its place.
    async fn restart(&mut self) {
        self.was_killed = true;
        self.scene.kill();
        let Scene { executor, .. } = self.scene.clone();
        executor.sleep(executor.duration(Duration::from_secs(1), Duration::from_secs(60))).await;
        self.scene.start();
    }

    /// The worker is asked to leave, and another one begins in its place.
    async fn replace(&mut self) {
        self.was_killed = true;
        let Scene { executor, .. } = self.scene.clone();
        executor.resume(MACHINE);
        pair::leave(&self.scene).await;
        executor.sleep(executor.duration(Duration::from_secs(1), Duration::from_secs(60))).await;
        self.scene.start();
    }

    /// The worker that is given the next task.
    fn anyone(&self) -> &Scene {
        match &self.pair {
            Some(Pair { second, .. }) if second.is_running() && self.scene.executor.chance(40) => second,
            _ => &self.scene,
        }
    }
}
