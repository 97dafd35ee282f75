//! Who the metrics come from: the resource attributes of `docs/metrics.md`.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use crate::identity::Identity;
use crate::settings::ResourceSettings;

/// The worker's own attributes, then those that were given; the later one wins.
pub(crate) fn resource(identity: &Identity, given: &ResourceSettings) -> Resource {
    let mut attributes = vec![
        KeyValue::new("service.name", "oz-agent-worker"),
        KeyValue::new("service.version", identity.version.clone()),
        // Two workers that were given the same id by mistake stay two series.
        KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        KeyValue::new("worker.id", identity.worker_id.clone()),
        KeyValue::new("worker.backend", identity.backend.clone()),
    ];
    if !identity.host_name.is_empty() {
        attributes.push(KeyValue::new("host.name", identity.host_name.clone()));
    }
    attributes.extend(given.0.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
    Resource::builder_empty().with_detector(Box::new(TelemetryResourceDetector)).with_attributes(attributes).build()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry::Key;

    use super::*;

    fn attribute(resource: &Resource, key: &'static str) -> Option<String> {
        resource.get(&Key::from_static_str(key)).map(|value| value.to_string())
    }

    pub(crate) fn identity() -> Identity {
        Identity {
            version: "1.2.3".to_owned(),
            worker_id: "w1".to_owned(),
            backend: "direct".to_owned(),
            max_concurrent_tasks: 1,
            host_name: "node-7".to_owned(),
            status_page: true,
        }
    }

    #[test]
    fn names_worker_host_and_process() {
        let resource = resource(&identity(), &ResourceSettings::default());
        for (key, value) in [
            ("service.name", "oz-agent-worker"),
            ("service.version", "1.2.3"),
            ("worker.id", "w1"),
            ("worker.backend", "direct"),
            ("host.name", "node-7"),
            ("telemetry.sdk.language", "rust"),
        ] {
            assert_eq!(attribute(&resource, key).as_deref(), Some(value), "{key}");
        }
        let instance = attribute(&resource, "service.instance.id").unwrap();
        assert_eq!(instance.parse::<uuid::Uuid>().unwrap().get_version_num(), 4);
    }

    #[test]
    fn a_worker_without_a_host_has_no_attribute_for_it() {
        let identity = Identity { host_name: String::new(), ..identity() };
        assert_eq!(attribute(&resource(&identity, &ResourceSettings::default()), "host.name"), None);
    }

    #[test]
    fn every_attribute_of_the_worker_can_be_set_from_outside() {
        let given = [
            ("deployment.environment", "z"),
            ("service.name", "a"),
            ("service.version", "b"),
            ("service.instance.id", "c"),
            ("worker.id", "d"),
            ("worker.backend", "e"),
            ("host.name", "f"),
        ];
        let list = given.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let resource = resource(&identity(), &ResourceSettings(list));
        for (key, value) in given {
            assert_eq!(attribute(&resource, key).as_deref(), Some(value), "{key}");
        }
    }
}
