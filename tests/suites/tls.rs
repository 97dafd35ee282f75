//! TLS and the way through a proxy: whom the worker trusts, and how a certificate that it does not trust reads.

use oz_worker_tests::{
    BOUND,
    agent::Agent,
    message::Assignment,
    proxy::Proxy,
    server::Server,
    tls::Authority,
    worker::{API_KEY, Launch, Worker},
};

/// A worker that trusts `authority` and dials this URL.
fn trusting(authority: &Authority, url: &str, agent: &Agent) -> Launch {
    let launch = Launch::direct_to(url, agent);
    let file = launch.dir().join("authority.pem");
    authority.write(&file);
    launch.env("SSL_CERT_FILE", file.to_str().unwrap())
}

#[test]
fn server_of_a_trusted_authority_is_served() {
    let (authority, agent) = (Authority::new("A test's authority"), Agent::new());
    let server = Server::start_tls(authority.server("localhost"));
    let _worker = trusting(&authority, &server.url(), &agent).start();
    let mut session = server.accept();
    session.send(Assignment::new("T1"));
    session.expect("task_claimed");
    session.expect("task_completed");
    session.ping(b"over TLS");
    session.expect_pong(b"over TLS");
    session.reset();
    server.accept();
}

/// The line about a dial whose certificate is no good.
fn refused_certificate(worker: &Worker, server: &Server) -> String {
    assert!(server.try_request(BOUND).is_err(), "the worker talked to a server that it must not trust");
    let line = worker.wait_for_line("certificate");
    assert!(worker.lines_with(API_KEY).is_empty());
    // Tried again, and never without TLS.
    assert!(server.try_request(BOUND).is_err());
    line.to_lowercase()
}

#[test]
fn unknown_issuer_is_named() {
    let (trusted, foreign, agent) = (Authority::new("Trusted"), Authority::new("Foreign"), Agent::new());
    let server = Server::start_tls(foreign.server("localhost"));
    let worker = trusting(&trusted, &server.url(), &agent).start();
    let line = refused_certificate(&worker, &server);
    assert!(line.contains("issuer") || line.contains("authority"), "{line}");
}

#[test]
fn wrong_host_is_named() {
    let (authority, agent) = (Authority::new("Trusted"), Agent::new());
    let server = Server::start_tls(authority.server("elsewhere.example"));
    let worker = trusting(&authority, &server.url(), &agent).start();
    let line = refused_certificate(&worker, &server);
    assert!(line.contains("localhost"), "{line}");
}

#[test]
fn expired_certificate_is_named() {
    let (authority, agent) = (Authority::new("Trusted"), Agent::new());
    let server = Server::start_tls(authority.expired_server("localhost"));
    let worker = trusting(&authority, &server.url(), &agent).start();
    let line = refused_certificate(&worker, &server);
    assert!(line.contains("expired"), "{line}");
}

#[test]
fn wss_goes_through_the_proxy_by_name() {
    let (authority, agent) = (Authority::new("Trusted"), Agent::new());
    // A name that only the proxy can make sense of.
    let server = Server::start_tls(authority.server("oz.invalid"));
    let proxy = Proxy::to(server.address());
    let url = format!("wss://oz.invalid{}", oz_worker_tests::server::PATH);
    let _worker = trusting(&authority, &url, &agent).env("HTTPS_PROXY", &proxy.url()).start();
    let mut session = server.accept();
    session.send(Assignment::new("T1"));
    session.expect("task_claimed");
    session.expect("task_completed");

    let requests = proxy.requests();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert!(requests[0].starts_with("CONNECT oz.invalid:443\n"), "{}", requests[0]);
    assert!(requests[0].contains("host: oz.invalid:443"), "{}", requests[0]);
    assert!(!requests[0].contains(API_KEY), "the proxy was told the API key");
}

#[test]
fn no_proxy_goes_past_the_proxy() {
    let (authority, agent) = (Authority::new("Trusted"), Agent::new());
    // This host, by an address that is not a loopback one: loopback is never dialled through a proxy.
    let server = Server::start_tls(authority.server("0.0.0.0"));
    let url = server.url().replace("localhost", "0.0.0.0");
    let proxy = Proxy::to(server.address());
    let launch = trusting(&authority, &url, &agent).env("HTTPS_PROXY", &proxy.url());
    for no_proxy in ["0.0.0.0", "elsewhere.example, 0.0.0.0", "*"] {
        let _worker = launch.clone().env("NO_PROXY", no_proxy).start();
        server.accept();
        assert_eq!(proxy.requests(), [""; 0], "NO_PROXY={no_proxy:?}");
    }
    let _worker = launch.env("NO_PROXY", "elsewhere.example").start();
    server.accept();
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
fn loopback_is_never_dialled_through_a_proxy() {
    let (server, agent) = (Server::start(), Agent::new());
    let proxy = Proxy::refusing("503 Service Unavailable");
    let launch = Launch::direct(&server, &agent).env("HTTP_PROXY", &proxy.url()).env("HTTPS_PROXY", &proxy.url());
    let _worker = launch.start();
    server.accept();
    assert_eq!(proxy.requests(), [""; 0]);
}

#[test]
fn proxy_that_refuses_is_one_line_and_another_dial() {
    let agent = Agent::new();
    let proxy = Proxy::refusing("407 Proxy Authentication Required");
    let url = format!("wss://oz.invalid{}", oz_worker_tests::server::PATH);
    let worker = Launch::direct_to(&url, &agent).env("HTTPS_PROXY", &proxy.url()).with_metrics().start();
    let line = worker.wait_for_line("HTTP 407");
    assert!(line.to_lowercase().contains("proxy"), "{line}");
    worker.wait_for_metric("oz_worker_websocket_reconnects_total", &[("reason", "dial_failed")], 2.0);
    assert!(worker.lines_with(API_KEY).is_empty());
}
