//! The Job that shows at start whether the cluster lets this worker run tasks: of the same kind as theirs, and harmless.

use serde_json::{Map, Value, json};

use super::job::{operators_annotations, operators_labels, whole};
use super::settings::KubernetesSettings;
use super::template;

/// What begins the name of every such Job; the hash of the worker's id and a moment follow.
const NAME: &str = "oz-preflight-";
/// The volume that shows whether the cluster can mount images.
const IMAGE_VOLUME: &str = "preflight-image";
/// What of the template is for the tasks' containers only.
const TASKS_OWN: [&str; 2] = ["containers", "initContainers"];

/// The Job's name; `moment` is the time since 1970, which tells one start from the next.
pub fn name(worker_hash: &str, moment: std::time::Duration) -> String {
    format!("{NAME}{worker_hash}-{:010}", moment.as_millis())
}

/// The Job of this name.
pub fn description(settings: &KubernetesSettings, name: &str) -> Value {
    let mut pod = template::begin(settings.pod_template.as_ref().map(|template| &template.0));
    for key in TASKS_OWN {
        pod.remove(key);
    }
    let mut main = container(settings, "main", "true");
    if settings.use_image_volumes {
        let mut volumes = template::take_list(&mut pod, "volumes");
        let image = json!({"reference": settings.preflight_image, "pullPolicy": settings.image_pull_policy.name()});
        template::lay(&mut volumes, [json!({"name": IMAGE_VOLUME, "image": image})], "name");
        pod.insert("volumes".into(), volumes.into());
        main = container(settings, "main", "test -d /preflight-image");
        main.insert(
            "volumeMounts".into(),
            json!([{"name": IMAGE_VOLUME, "mountPath": "/preflight-image", "readOnly": true}]),
        );
    } else {
        // Sidecars are copied as root: what forbids that should be known now.
        let mut root = container(settings, "root-init-preflight", "true");
        root.insert("securityContext".into(), json!({"runAsUser": 0, "runAsGroup": 0}));
        pod.insert("initContainers".into(), json!([root]));
    }
    pod.insert("containers".into(), json!([main]));
    pod.insert("restartPolicy".into(), "Never".into());
    let metadata = json!({"labels": operators_labels(settings), "annotations": operators_annotations(settings)});
    let spec = json!({"backoffLimit": 0, "template": {"metadata": metadata, "spec": pod}});
    whole(settings, name, metadata, spec.as_object().unwrap_or(&Map::new()))
}

fn container(settings: &KubernetesSettings, name: &str, command: &str) -> Map<String, Value> {
    let usual = || json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}});
    let resources = settings.preflight_resources.as_ref().map_or_else(usual, |resources| resources.0.clone());
    Map::from_iter([
        ("name".to_owned(), name.into()),
        ("image".to_owned(), settings.preflight_image.as_str().into()),
        ("imagePullPolicy".to_owned(), settings.image_pull_policy.name().into()),
        ("command".to_owned(), json!(["/bin/sh", "-c", command])),
        ("resources".to_owned(), resources),
    ])
}
