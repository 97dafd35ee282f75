//! What each variable does, alone and beside others.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;
use oz_worker_net::url::Url;

use crate::instruments::Buckets;

use super::{Compression, Otlp, Protocol, ScrapeAddress, SpanSettings, TelemetrySettings};

fn read(variables: &[(&str, &str)]) -> (TelemetrySettings, Vec<String>) {
    let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let settings = TelemetrySettings::read(env);
    let problems = settings.problems().map(|problem| problem.to_string()).collect();
    (settings, problems)
}

fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.authority(), url.path_and_query())
}

/// How metrics are pushed with these variables, none of which is wrong.
fn otlp(variables: &[(&str, &str)]) -> Otlp {
    let (settings, problems) = read(variables);
    assert_eq!(problems, [""; 0]);
    settings.metrics.otlp.unwrap()
}

#[test]
fn pushes_to_the_local_collector_when_nothing_is_set() {
    for variables in [&[][..], &[("OTEL_METRICS_EXPORTER", "")], &[("OTEL_METRICS_EXPORTER", " ")]] {
        let (settings, problems) = read(variables);
        let otlp = settings.metrics.otlp.unwrap();
        assert_eq!(shown(&otlp.endpoint), "http://localhost:4318/v1/metrics");
        assert_eq!(otlp.timeout, Duration::from_secs(10));
        assert_eq!(settings.metrics.interval, Duration::from_secs(60));
        assert!(settings.metrics.prometheus.is_none() && !settings.metrics.console && problems.is_empty());
    }
}

#[test]
fn runs_every_exporter_of_a_list() {
    let (settings, problems) = read(&[("OTEL_METRICS_EXPORTER", "prometheus, OTLP,console,")]);
    assert_eq!(settings.metrics.prometheus, Some(ScrapeAddress { host: "localhost".to_owned(), port: 9464 }));
    assert!(settings.metrics.otlp.is_some() && settings.metrics.console && problems.is_empty());
    for exporter in ["prometheus", "otlp", "console"] {
        assert!(read(&[("OTEL_METRICS_EXPORTER", exporter)]).0.metrics.exports(), "{exporter}");
    }
}

#[test]
fn none_and_a_disabled_sdk_export_nothing() {
    for variables in [[("OTEL_METRICS_EXPORTER", "none")], [("OTEL_SDK_DISABLED", "True")]] {
        let (settings, problems) = read(&variables);
        assert!(!settings.metrics.exports() && problems.is_empty());
    }
}

#[test]
fn an_unknown_exporter_is_named_with_the_accepted_ones_and_the_others_run() {
    let (settings, problems) = read(&[("OTEL_METRICS_EXPORTER", "prometheus,statsd")]);
    assert!(settings.metrics.prometheus.is_some());
    assert_eq!(problems.len(), 1);
    for word in ["\"statsd\"", "otlp", "prometheus", "console", "none", "OTEL_METRICS_EXPORTER"] {
        assert!(problems[0].contains(word), "{problems:?}");
    }
    let (settings, problems) = read(&[("OTEL_METRICS_EXPORTER", "statsd")]);
    assert!(!settings.metrics.exports());
    assert_eq!(problems.len(), 1);
}

#[test]
fn the_protocol_of_a_signal_wins_over_the_general_one() {
    assert_eq!(otlp(&[]).protocol, Protocol::HttpProtobuf);
    let general = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
    assert_eq!(otlp(&[general]).protocol, Protocol::HttpJson);
    let own = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf");
    assert_eq!(otlp(&[general, own]).protocol, Protocol::HttpProtobuf);
}

#[test]
fn an_unknown_protocol_is_named_with_the_accepted_ones_and_the_default_is_used() {
    let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")]);
    assert_eq!(settings.metrics.otlp.unwrap().protocol, Protocol::HttpProtobuf);
    assert_eq!(problems.len(), 1);
    for word in ["OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon", "http/json", "using http/protobuf"] {
        assert!(problems[0].contains(word), "{problems:?}");
    }
}

#[test]
fn spans_are_exported_only_when_that_is_asked_for_and_in_their_own_way() {
    let (settings, problems) = read(&[]);
    assert!(settings.spans.is_none() && problems.is_empty());
    let (settings, problems) = read(&[
        ("OTEL_TRACES_EXPORTER", "otlp,console"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "700"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=1"),
    ]);
    let traces = settings.spans.unwrap();
    assert!(traces.console && problems.is_empty());
    let otlp = traces.otlp.unwrap();
    assert_eq!(shown(&otlp.endpoint), "http://collector:4318/v1/traces");
    assert_eq!(otlp.timeout, Duration::from_millis(700));
    assert_eq!(otlp.headers.0["a"], "1");
    let metrics = settings.metrics.otlp.unwrap();
    assert_eq!((metrics.timeout, metrics.headers.0.len()), (Duration::from_secs(10), 0));
    let (settings, problems) = read(&[("OTEL_TRACES_EXPORTER", "prometheus")]);
    assert!(settings.spans.is_none() && problems[0].contains("accepted are otlp, console and none,"));
}

#[test]
fn the_general_endpoint_is_a_base_and_the_metrics_endpoint_a_whole_url() {
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
    assert_eq!(shown(&read(&[general]).0.metrics.otlp.unwrap().endpoint), "http://collector:4318/v1/metrics");
    let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://other:443/ingest");
    assert_eq!(shown(&read(&[general, own]).0.metrics.otlp.unwrap().endpoint), "https://other:443/ingest");
}

#[test]
fn a_bad_endpoint_is_named_but_not_shown() {
    for url in ["collector:4318", "ftp://collector", "http://user:hunter2@", "::"] {
        let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)]);
        assert!(settings.metrics.otlp.is_none(), "{url}");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !problems[0].contains("hunter2"));
    }
}

#[test]
fn headers_are_decoded_and_a_bad_one_is_counted_not_shown() {
    let list = "api-key=a%20b=c , nonsense,x\u{e9}=canary,,last=1";
    let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_HEADERS", list)]);
    let headers = settings.metrics.otlp.unwrap().headers;
    assert_eq!(headers.0.len(), 2);
    assert_eq!((&headers.0["api-key"], &headers.0["last"]), (&"a b=c".parse().unwrap(), &"1".parse().unwrap()));
    assert_eq!(format!("{headers:?}"), r#"{"api-key", "last"}"#);
    assert_eq!(problems.len(), 2);
    assert!(problems[0].contains("entry 2") && problems[1].contains("entry 3"));
    assert!(!problems.concat().contains("canary"));
}

#[test]
fn a_bad_value_is_one_problem_and_its_default_is_used() {
    let (settings, problems) = read(&[
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "never"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-5"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sideways"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "bars"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "94640"),
    ]);
    assert_eq!(problems.len(), 8, "{problems:#?}");
    let otlp = settings.metrics.otlp.unwrap();
    assert_eq!((settings.metrics.interval, otlp.timeout), (Duration::from_secs(60), Duration::from_secs(10)));
    assert_eq!((otlp.compression, settings.metrics.temporality), (Compression::None, Temporality::Cumulative));
    assert_eq!(settings.metrics.prometheus.unwrap().port, 9464);
}

#[test]
fn an_export_is_bounded_by_the_smaller_of_the_two_timeouts() {
    let otlp = [("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1500")];
    assert_eq!(read(&otlp).0.metrics.otlp.unwrap().timeout, Duration::from_millis(1500));
    let export = [("OTEL_METRIC_EXPORT_TIMEOUT", "250")];
    assert_eq!(read(&export).0.metrics.otlp.unwrap().timeout, Duration::from_millis(250));
    let spans = [("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_BSP_EXPORT_TIMEOUT", "300")];
    assert_eq!(read(&spans).0.spans.unwrap().otlp.unwrap().timeout, Duration::from_millis(300));
}

#[test]
fn a_timeout_of_zero_is_none() {
    let zero = ("OTEL_EXPORTER_OTLP_TIMEOUT", "0");
    assert_eq!(otlp(&[zero]).timeout, Duration::from_secs(30));
    assert!(otlp(&[zero, ("OTEL_METRIC_EXPORT_TIMEOUT", "0")]).timeout > Duration::from_secs(86_400));
    assert!(otlp(&[zero, ("OTEL_METRIC_EXPORT_TIMEOUT", &u64::MAX.to_string())]).timeout > Duration::from_secs(86_400));
}

#[test]
fn the_endpoint_of_grpc_gets_no_path_and_without_a_scheme_insecure_decides() {
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    assert_eq!(shown(&otlp(&[grpc]).endpoint), "http://localhost:4317/");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317/");
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
    // The scheme that is there wins.
    assert_eq!(shown(&otlp(&[grpc, endpoint, insecure]).endpoint), "https://collector:4317/");
    let bare = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "[::1]:4317/");
    assert_eq!(shown(&otlp(&[grpc, bare, endpoint]).endpoint), "https://[::1]:4317/");
    assert_eq!(shown(&otlp(&[grpc, bare, insecure]).endpoint), "http://[::1]:4317/");
    let secure = ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "false");
    assert_eq!(shown(&otlp(&[grpc, bare, insecure, secure]).endpoint), "https://[::1]:4317/");
    // Over HTTP it says nothing.
    let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"), insecure]);
    assert!(settings.metrics.otlp.is_none() && problems.len() == 1);
}

#[test]
fn certificates_that_cannot_be_used_are_one_problem_and_nothing_is_pushed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (empty, key) = (path("empty.pem"), path("key.pem"));
    std::fs::write(&empty, "no certificate").unwrap();
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318");
    let missing = path("missing.pem");
    for (certificates, words) in [
        (vec![("OTEL_EXPORTER_OTLP_CERTIFICATE", missing.as_str())], ["_CERTIFICATE: cannot read", "missing.pem"]),
        (vec![("OTEL_EXPORTER_OTLP_CERTIFICATE", &empty)], ["does not hold certificates in PEM", "empty.pem"]),
        (vec![("OTEL_EXPORTER_OTLP_CERTIFICATE", &key)], ["does not hold certificates in PEM", "key.pem"]),
        (vec![("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", &empty)], ["METRICS_CLIENT_CERT", "_CLIENT_KEY too"]),
        (vec![("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key)], ["CLIENT_KEY", "_CLIENT_CERTIFICATE too"]),
    ] {
        let (settings, problems) = read(&[certificates.clone(), vec![endpoint]].concat());
        assert!(settings.metrics.otlp.is_none());
        assert!(matches!(&*problems, [line] if words.iter().all(|word| line.contains(word))), "{problems:?}");
        // Nothing secures a connection that is not secure.
        let plain = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert!(read(&[certificates, vec![plain]].concat()).0.metrics.otlp.is_some());
    }
}

/// How spans are exported with these variables, and what is wrong with them.
fn traces(variables: &[(&str, &str)]) -> (SpanSettings, Vec<String>) {
    let mut all = vec![("OTEL_TRACES_EXPORTER", "console")];
    all.extend_from_slice(variables);
    let (settings, problems) = read(&all);
    (settings.spans.unwrap(), problems)
}

#[test]
fn every_sampler_of_the_specification_is_known() {
    let ratio = ("OTEL_TRACES_SAMPLER_ARG", "0.25");
    for (name, expected) in [
        ("", "ParentBased(AlwaysOn)"),
        ("always_on", "AlwaysOn"),
        ("ALWAYS_OFF", "AlwaysOff"),
        ("traceidratio", "TraceIdRatioBased(0.25)"),
        ("parentbased_always_on", "ParentBased(AlwaysOn)"),
        ("parentbased_always_off", "ParentBased(AlwaysOff)"),
        ("parentbased_traceidratio", "ParentBased(TraceIdRatioBased(0.25))"),
    ] {
        let (traces, problems) = traces(&[("OTEL_TRACES_SAMPLER", name), ratio]);
        assert_eq!((format!("{:?}", traces.sampler), problems), (expected.to_owned(), Vec::new()));
    }
}

#[test]
fn a_bad_sampler_batch_or_length_is_one_problem_and_its_default_is_used() {
    let (default, _) = traces(&[]);
    let (traces, problems) = traces(&[
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1000000000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1"),
    ]);
    assert_eq!(problems.len(), 5, "{problems:#?}");
    assert_eq!(format!("{traces:?}"), format!("{default:?}"));
    for ratio in ["2", "NaN", "half"] {
        let variables = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
        let (traces, problems) = self::traces(&variables);
        assert_eq!(format!("{:?}", traces.sampler), "TraceIdRatioBased(1.0)");
        assert!(problems.len() == 1 && problems[0].contains("OTEL_TRACES_SAMPLER_ARG"), "{problems:?}");
    }
}

#[test]
fn the_limit_on_texts_can_be_lowered_and_not_raised() {
    let length = |variables: &[(&str, &str)]| traces(variables).0.longest_text;
    assert_eq!(length(&[]), 1024);
    assert_eq!(length(&[("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "1000000")]), 1024);
    let general = ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10");
    assert_eq!(length(&[general]), 10);
    assert_eq!(length(&[general, ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "20")]), 20);
}

#[test]
fn the_environment_adds_to_the_attributes_and_names_the_service() {
    let list = ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=a%2Cb, service.name=x,,host.name=y");
    let (settings, problems) = read(&[list, ("OTEL_SERVICE_NAME", "my-service")]);
    let attributes: Vec<_> = settings.resource.0.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        attributes,
        [("deployment.environment", "a,b"), ("service.name", "x"), ("host.name", "y"), ("service.name", "my-service")]
    );
    assert_eq!(problems, [""; 0]);
    let shown = format!("{:?}", settings.resource);
    assert!(shown.contains("deployment.environment") && !shown.contains("a,b"), "{shown}");
}

#[test]
fn a_malformed_list_of_attributes_is_ignored_whole() {
    for list in ["a=1,canary", "a=1,=canary", "a=1,b=canary%ff"] {
        let (settings, problems) = read(&[("OTEL_RESOURCE_ATTRIBUTES", list)]);
        assert!(settings.resource.0.is_empty());
        assert!(matches!(&*problems, [line] if line.contains("entry 2") && !line.contains("canary")), "{problems:?}");
    }
}

#[test]
fn nothing_is_wrong_with_variables_that_nobody_needs() {
    let bad = ("OTEL_RESOURCE_ATTRIBUTES", "nonsense");
    assert_eq!(read(&[bad, ("OTEL_METRICS_EXPORTER", "none")]).1, [""; 0]);
    assert_eq!(read(&[bad, ("OTEL_SDK_DISABLED", "true")]).1, [""; 0]);
    assert_eq!(read(&[bad, ("OTEL_METRICS_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "console")]).1.len(), 1);
}

#[test]
fn a_collector_is_reached_through_the_proxy_that_the_link_would_take() {
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318");
    let proxy = ("HTTPS_PROXY", "http://me:hunter2@proxy:3128");
    let through = |variables: &[(&str, &str)]| otlp(variables).proxy.map(|proxy| proxy.to_string());
    assert_eq!(through(&[collector, proxy]).as_deref(), Some("proxy:3128"));
    assert_eq!(through(&[collector, ("HTTP_PROXY", "http://proxy:3128")]), None);
    assert_eq!(through(&[collector, ("all_proxy", "proxy:1")]).as_deref(), Some("proxy:1"));
    assert_eq!(through(&[collector, proxy, ("NO_PROXY", "collector")]), None);
    assert_eq!(through(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:4318"), proxy]), None);
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    assert_eq!(through(&[collector, proxy, grpc]).as_deref(), Some("proxy:3128"));
    assert!(!format!("{:?}", otlp(&[collector, proxy])).contains("hunter2"));
    // What cannot be used is not gone around, with the credentials and without the proxy.
    for protocol in ["http/protobuf", "http/json", "grpc"] {
        for endpoint in ["https://collector:4318", "http://collector:4318"] {
            let (settings, problems) = read(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("ALL_PROXY", "socks5://me:hunter2@proxy"),
            ]);
            assert!(settings.metrics.otlp.is_none(), "{protocol} {endpoint}");
            assert!(
                matches!(&*problems, [line] if line.contains("ALL_PROXY") && !line.contains("hunter2")),
                "{problems:?}"
            );
        }
    }
}

#[test]
fn a_bad_value_of_a_signal_leaves_the_general_one_in_force() {
    let (settings, problems) = read(&[
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grcp"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "br"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "700"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1s"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
    ]);
    let otlp = settings.metrics.otlp.unwrap();
    assert_eq!((otlp.protocol, otlp.compression), (Protocol::Grpc, Compression::Zstd));
    assert_eq!((otlp.timeout, otlp.endpoint.scheme()), (Duration::from_millis(700), "http"));
    // Each is a problem all the same, and says what holds.
    for words in [
        ["METRICS_PROTOCOL", "using grpc"],
        ["METRICS_COMPRESSION", "using zstd"],
        ["METRICS_TIMEOUT", "using 700"],
        ["METRICS_INSECURE", "using true"],
    ] {
        let told = problems.iter().filter(|line| words.iter().all(|word| line.contains(word))).count();
        assert_eq!(told, 1, "{words:?}: {problems:#?}");
    }
    assert_eq!(problems.len(), 4, "{problems:#?}");
    let length = |variables: &[(&str, &str)]| traces(variables).0.longest_text;
    let own = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "ten");
    assert_eq!(length(&[own, ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10")]), 10);
}

#[test]
fn headers_of_the_exporter_itself_are_refused_by_name() {
    for name in ["Content-Length", "connection", "Transfer-Encoding", "Host", "content-type", "TE", "grpc-timeout"] {
        let list = format!("a=1,{name}=canary,b=2");
        let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_HEADERS", &list)]);
        let headers = settings.metrics.otlp.unwrap().headers;
        assert_eq!(format!("{headers:?}"), r#"{"a", "b"}"#);
        let words = ["OTEL_EXPORTER_OTLP_HEADERS", "entry 2", &name.to_ascii_lowercase()];
        assert!(matches!(&*problems, [line] if words.iter().all(|word| line.contains(word))), "{problems:?}");
        assert!(!problems.concat().contains("canary"), "{problems:?}");
    }
}

#[test]
fn an_endpoint_is_one_url_over_every_protocol() {
    for protocol in ["http/protobuf", "http/json", "grpc"] {
        let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        for (url, word) in [
            ("http://collector:431800", "port"),
            ("http://collector:0", "port"),
            ("http://user:canary@", "host"),
            ("http://user:canary#x@collector", "%23"),
            ("http://coll ector", "host"),
            ("http://collector/canary path", "percent-encoded"),
        ] {
            for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] {
                let (settings, problems) = read(&[protocol, (variable, url)]);
                assert!(settings.metrics.otlp.is_none(), "{url}");
                assert!(matches!(&*problems, [line] if line.contains(variable) && line.contains(word)), "{problems:?}");
                assert!(!problems.concat().contains("canary"), "{problems:?}");
            }
        }
        let otlp = otlp(&[protocol, ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user%40x:p@collector/otlp/?k=v")]);
        let path = if otlp.protocol == Protocol::Grpc { "/otlp/?k=v" } else { "/otlp/v1/metrics?k=v" };
        assert_eq!(shown(&otlp.endpoint), format!("http://collector:80{path}"));
        let user = otlp.endpoint.user_info().unwrap();
        assert_eq!((user.user.expose(), user.password.expose()), ("user@x", "p"));
    }
}

#[test]
fn no_secret_of_the_settings_is_shown() {
    let (settings, problems) = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:canary@collector/canary?canary"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=canary"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=canary"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
    ]);
    assert_eq!(problems, [""; 0]);
    let otlp = settings.metrics.otlp.as_ref().unwrap();
    assert!(otlp.headers.0["authorization"].is_sensitive());
    assert!(!format!("{settings:?}{:?}", otlp.headers.0).contains("canary"), "{settings:?}");
}

#[test]
fn batches_are_as_large_and_as_frequent_as_is_asked_for() {
    let (traces, problems) = traces(&[
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65536"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "7"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1234"),
    ]);
    assert_eq!(problems, [""; 0]);
    let config = format!("{:?}", traces.batches.config());
    for part in ["max_queue_size: 65536", "max_export_batch_size: 7", "scheduled_delay: 1.234s"] {
        assert!(config.contains(part), "{config}");
    }
    assert_eq!(self::traces(&[("OTEL_BSP_MAX_QUEUE_SIZE", "65537")]).1.len(), 1);
}

#[test]
fn a_key_of_another_certificate_is_one_problem_and_nothing_is_pushed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (own, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let certificate = rcgen::CertificateParams::new(["worker".to_owned()]).unwrap().self_signed(&own).unwrap();
    std::fs::write(path("own.pem"), certificate.pem()).unwrap();
    std::fs::write(path("own.key"), own.serialize_pem()).unwrap();
    std::fs::write(path("other.key"), other.serialize_pem()).unwrap();
    let with = |key: &str| {
        let chain = path("own.pem");
        read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &chain),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &chain),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", key),
        ])
    };
    let (settings, problems) = with(&path("own.key"));
    let tls = settings.metrics.otlp.unwrap().tls;
    assert_eq!((tls.roots.as_ref().unwrap().len(), tls.client.as_ref().unwrap().chain().len()), (1, 1));
    assert_eq!(problems, [""; 0]);
    let (settings, problems) = with(&path("other.key"));
    assert!(settings.metrics.otlp.is_none());
    assert!(matches!(&*problems, [line] if line.contains("the private key does not belong")), "{problems:?}");
    let (settings, problems) = with(&path("own.pem"));
    assert!(settings.metrics.otlp.is_none());
    let words = ["OTEL_EXPORTER_OTLP_CLIENT_KEY", "own.pem", "a private key in PEM"];
    assert!(matches!(&*problems, [line] if words.iter().all(|word| line.contains(word))), "{problems:?}");
}

#[test]
fn a_histogram_and_sums_are_for_the_collector_as_is_asked_for() {
    for (value, temporality) in [
        ("cumulative", Temporality::Cumulative),
        ("Delta", Temporality::LowMemory),
        ("lowmemory", Temporality::LowMemory),
    ] {
        let (settings, _) = read(&[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", value)]);
        assert_eq!(settings.metrics.temporality, temporality);
    }
    let variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
    let buckets = |value| read(&[(variable, value)]).0.metrics.buckets;
    assert_eq!(buckets("explicit_bucket_histogram"), Buckets::Explicit);
    assert_eq!(buckets("base2_exponential_bucket_histogram"), Buckets::Exponential);
}

#[test]
fn the_interval_is_a_number_of_milliseconds_above_zero() {
    let interval = |value| read(&[("OTEL_METRIC_EXPORT_INTERVAL", value)]).0.metrics.interval;
    assert_eq!(interval("1"), Duration::from_millis(1));
    assert_eq!(interval("0"), Duration::from_secs(60));
    let console = [("OTEL_METRICS_EXPORTER", "console"), ("OTEL_METRIC_EXPORT_INTERVAL", "5")];
    assert_eq!(read(&console).0.metrics.interval, Duration::from_millis(5));
}
