//! A way to the API server that can fall silent, or be cut.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use oz_worker_tests::{peers::kubernetes::API, server::Server};

use super::scene::{Place, Scene};

/// Leads everybody to the API server, until it lets connections fall silent: they stay open, and nothing comes.
pub struct Relay {
    address: SocketAddr,
    /// Connections before this one are silent.
    silent_before: Arc<AtomicUsize>,
    count: Arc<AtomicUsize>,
    /// Whether nobody gets through, and whose connections that ends.
    is_away: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// One that listens at this address.
    pub fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
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
        Self { address, silent_before, count, is_away, open }
    }

    /// Nobody gets through while this is done, and whatever is open ends.
    pub fn away_while(&self, goes_on: impl FnOnce()) {
        self.is_away.store(true, Ordering::SeqCst);
        for client in self.open.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
        goes_on();
        self.is_away.store(false, Ordering::SeqCst);
    }

    /// A worker that reaches the API server by it.
    pub fn scene(&self, place: &Place<'_>) -> Scene {
        let server = Server::start();
        let launch = place.launch(&server);
        let text = std::fs::read_to_string(&place.cluster.kubeconfig).unwrap();
        let line = format!("server: \"https://{}\", tls-server-name: {}", self.address, API.ip());
        let path = launch.dir().join("kubeconfig");
        std::fs::write(&path, text.replace(&format!("server: \"https://{API}\""), &line)).unwrap();
        Scene::of(server, launch.config("kubeconfig", path.to_str().unwrap()))
    }

    /// Whatever is open falls silent; what comes later works.
    pub fn fall_silent(&self) {
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
