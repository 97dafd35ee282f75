//! What a dial may read: proxy variables, the server's URL, and answers of a proxy or a server that need not be one.
#![no_main]

use libfuzzer_sys::arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oz_worker::link::http::{HeadError, LARGEST_HEAD, parse_head, read_head};
use oz_worker::link::{Target, check_handshake, proxy, refusal};
use oz_worker::settings::secret::ApiKey;

const KEY: &str = "wk-5ecret";

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    proxy: &'a str,
    exceptions: &'a str,
    secure: bool,
    host: &'a str,
    port: u16,
    answer: &'a [u8],
    body: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    proxies(&input);
    heads(input.answer, input.body);
    if let Ok(key) = ApiKey::from_text(KEY) {
        // A target is made of a URL that was checked; here it is not.
        let _ = Target::new(input.host, key, |_| None);
    }
});

fn proxies(input: &Input<'_>) {
    let env = |name: &str| match name {
        "HTTPS_PROXY" | "http_proxy" => Some(input.proxy.to_owned()),
        "no_proxy" => Some(input.exceptions.to_owned()),
        _ => None,
    };
    match proxy::for_host(env, input.secure, input.host, input.port) {
        Ok(None) => {}
        // Both go into a request of one line each.
        Ok(Some(proxy)) => {
            assert!(!proxy.host.is_empty() && !proxy.host.contains(char::is_control), "{}", proxy.host);
            assert!(proxy.authorization.is_none_or(|value| !value.contains(char::is_control)));
        }
        Err(error) => assert!(["HTTPS_PROXY", "http_proxy"].contains(&error.variable)),
    }
}

fn heads(answer: &[u8], body: &[u8]) {
    let read = futures_lite::future::block_on(read_head(&mut &answer[..]));
    match parse_head(answer) {
        Ok(Some((head, length))) => {
            assert_eq!(parse_head(&answer[..length]).unwrap().unwrap().0, head);
            let _ = check_handshake(&head, "dGhlIHNhbXBsZSBub25jZQ==");
            let Ok(ApiKey::Value(key)) = ApiKey::from_text(KEY) else { unreachable!("it is a good key") };
            let text = refusal("host", &key, &head, &body[..body.len().min(512)]).to_string();
            assert!(!text.contains(KEY) && !text.contains(char::is_control), "{text}");
            assert!(text.len() < 8 * 1024, "{}", text.len());
            // Behind the head it reads no further than it did for the head.
            let (same, rest) = read.unwrap();
            assert!(same == head && answer[length..].starts_with(&rest), "{same:?} {rest:?}");
        }
        Ok(None) => {
            assert!(matches!(read, Err(HeadError::Truncated | HeadError::Empty)) && answer.len() < LARGEST_HEAD)
        }
        Err(_) => assert!(read.is_err()),
    }
}
