//! An API server that is away, and watches that fall silent.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use oz_worker_tests::{peers::kubernetes::API, server::Server};
use rustix::process::Signal;

use super::scene::{Place, Scene, task};

/// Leads everybody to the API server, until it lets connections fall silent: they stay open, and nothing comes.
struct Relay {
    port: u16,
    /// Connections before this one are silent.
    silent_before: Arc<AtomicUsize>,
    count: Arc<AtomicUsize>,
    /// Whether nobody gets through, and whose connections that ends.
    is_away: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (silent_before, count) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (silent, counted) = (Arc::clone(&silent_before), Arc::clone(&count));
        let (is_away, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (away, all) = (Arc::clone(&is_away), Arc::clone(&open));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                if away.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(API) else { continue };
                all.lock().unwrap().push(client.try_clone().unwrap());
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let silent = Arc::clone(&silent);
                    thread::spawn(move || drop(carry(from, to, || number < silent.load(Ordering::SeqCst))));
                }
            }
        });
        Self { port, silent_before, count, is_away, open }
    }

    /// Nobody gets through while this is done, and whatever is open ends.
    fn away_while(&self, goes_on: impl FnOnce()) {
        self.is_away.store(true, Ordering::SeqCst);
        for client in self.open.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
        goes_on();
        self.is_away.store(false, Ordering::SeqCst);
    }

    /// A worker that reaches the API server by it.
    fn scene(&self, place: &Place<'_>) -> Scene {
        let server = Server::start();
        let launch = place.launch(&server);
        let text = std::fs::read_to_string(&place.cluster.kubeconfig).unwrap();
        let line = format!("server: \"https://127.0.0.1:{}\", tls-server-name: {}", self.port, API.ip());
        let path = launch.dir().join("kubeconfig");
        std::fs::write(&path, text.replace(&format!("server: \"https://{API}\""), &line)).unwrap();
        Scene::of(server, launch.config("kubeconfig", path.to_str().unwrap()))
    }

    /// Whatever is open falls silent; what comes later works.
    fn fall_silent(&self) {
        self.silent_before.store(self.count.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_silent: impl Fn() -> bool) -> io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return to.shutdown(Shutdown::Write);
        }
        if !is_silent() {
            to.write_all(&buffer[..read])?;
        }
    }
}

pub fn silent(place: &Place<'_>) {
    let relay = Relay::start();
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
    let relay = Relay::start();
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
