//! Who the metrics come from: the resource attributes of `docs/metrics.md`.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use crate::Identity;
use crate::problem::Problem;
use crate::settings::{key_and_value, variable};

/// The worker's own attributes, then `OTEL_RESOURCE_ATTRIBUTES`, then `OTEL_SERVICE_NAME`; the later one wins.
pub(crate) fn resource(identity: &Identity, env: &dyn Fn(&str) -> Option<String>) -> (Resource, Result<(), Problem>) {
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
    let given = from_environment(&variable(env, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
    let problem = given.map(|given| attributes.extend(given));
    if let Some(name) = variable(env, "OTEL_SERVICE_NAME") {
        attributes.push(KeyValue::new("service.name", name));
    }
    let resource = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(attributes)
        .build();
    (resource, problem)
}

/// One bad entry makes the whole list unusable, as the specification asks: half a resource names another worker.
fn from_environment(list: &str) -> Result<Vec<KeyValue>, Problem> {
    let entries = list.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty());
    entries
        .map(|(index, entry)| {
            key_and_value(entry)
                .map(|(key, value)| KeyValue::new(key, value))
                .ok_or(Problem::NotAnAttribute { entry: index + 1 })
        })
        .collect()
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
        let (resource, problem) = resource(&identity(), &|_| None);
        problem.unwrap();
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
    fn the_environment_adds_to_the_attributes_and_names_the_service() {
        let env = |name: &str| match name {
            "OTEL_RESOURCE_ATTRIBUTES" => Some("deployment.environment=a%2Cb, service.name=x,host.name=y".to_owned()),
            "OTEL_SERVICE_NAME" => Some("my-service".to_owned()),
            _ => None,
        };
        let (resource, problem) = resource(&identity(), &env);
        problem.unwrap();
        assert_eq!(attribute(&resource, "deployment.environment").as_deref(), Some("a,b"));
        assert_eq!(attribute(&resource, "host.name").as_deref(), Some("y"));
        assert_eq!(attribute(&resource, "service.name").as_deref(), Some("my-service"));
    }

    #[test]
    fn every_attribute_of_the_worker_can_be_set_from_outside() {
        let list = "service.name=a,service.version=b,service.instance.id=c,worker.id=d,worker.backend=e,host.name=f";
        let env = |name: &str| (name == "OTEL_RESOURCE_ATTRIBUTES").then(|| list.to_owned());
        let (resource, problem) = resource(&identity(), &env);
        problem.unwrap();
        for (key, value) in [
            ("service.name", "a"),
            ("service.version", "b"),
            ("service.instance.id", "c"),
            ("worker.id", "d"),
            ("worker.backend", "e"),
            ("host.name", "f"),
        ] {
            assert_eq!(attribute(&resource, key).as_deref(), Some(value), "{key}");
        }
    }

    #[test]
    fn a_malformed_list_of_attributes_is_ignored_whole() {
        let env = |name: &str| (name == "OTEL_RESOURCE_ATTRIBUTES").then(|| "a=1,canary".to_owned());
        let (resource, problem) = resource(&identity(), &env);
        let text = problem.unwrap_err().to_string();
        assert!(text.contains("entry 2") && !text.contains("canary"), "{text}");
        assert_eq!(attribute(&resource, "a"), None);
    }
}
