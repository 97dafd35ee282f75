//! The operator's `pod_template`: what must be true of it, and how the worker's own fields are laid over it.

use serde_json::{Map, Value, json};

/// The container that the worker runs the agent in.
pub const TASK: &str = "task";

/// The lists of a Pod whose items have names, as far as the worker adds to them.
const NAMED_LISTS: [&str; 3] = ["containers", "initContainers", "volumes"];

/// Why a template cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A list of the Pod's whose items have names is something else.
    #[error("{0}: a list of mappings is wanted here, each with a name")]
    List(&'static str),
    /// A field of the container `task` that the worker adds to.
    #[error("the container task's {0}: {1} is wanted here")]
    Field(&'static str, &'static str),
}

/// Checks the parts of a template that the worker adds to. The rest is for the cluster to judge.
///
/// # Errors
/// The first part that has another form.
pub fn check(template: &Value) -> Result<(), TemplateError> {
    for key in NAMED_LISTS {
        let items = match template.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => items,
            Some(_) => return Err(TemplateError::List(key)),
        };
        if items.iter().any(|item| name(item).is_none()) {
            return Err(TemplateError::List(key));
        }
    }
    let containers = template.get("containers").and_then(Value::as_array).into_iter().flatten();
    for container in containers.filter(|container| name(container) == Some(TASK)) {
        for key in ["env", "volumeMounts"] {
            if !container.get(key).is_none_or(|value| value.is_array() || value.is_null()) {
                return Err(TemplateError::Field(key, "a list"));
            }
        }
        for key in ["resources", "lifecycle"] {
            if !container.get(key).is_none_or(|value| value.is_object() || value.is_null()) {
                return Err(TemplateError::Field(key, "a mapping"));
            }
        }
    }
    Ok(())
}

/// A Pod's spec that begins as the template.
pub fn begin(template: Option<&Value>) -> Map<String, Value> {
    template.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// A list of a mapping, taken out of it; empty when there is none.
pub fn take_list(map: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match map.remove(key) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// A mapping in a mapping, taken out of it; empty when there is none.
pub fn take_map(map: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match map.remove(key) {
        Some(Value::Object(inner)) => inner,
        _ => Map::new(),
    }
}

/// Lays `over` over a list: in the place of the item that has the same value under `key`, else at the end.
pub fn lay(list: &mut Vec<Value>, over: impl IntoIterator<Item = Value>, key: &str) {
    for item in over {
        let same = |other: &&mut Value| other.get(key).is_some() && other.get(key) == item.get(key);
        match list.iter_mut().find(same) {
            Some(place) => *place = item,
            None => list.push(item),
        }
    }
}

/// The container `task` of a list, taken out of it together with its place; a new one at the end when there is none.
pub fn take_task(containers: &mut Vec<Value>) -> (usize, Map<String, Value>) {
    let place = containers.iter().position(|container| name(container) == Some(TASK));
    match place.map(|place| (place, containers.remove(place))) {
        Some((place, Value::Object(container))) => (place, container),
        _ => (containers.len(), Map::from_iter([("name".to_owned(), json!(TASK))])),
    }
}

fn name(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_another_form_is_named() {
        for (template, error) in [
            (json!({"containers": "task"}), TemplateError::List("containers")),
            (json!({"containers": [{"image": "x"}]}), TemplateError::List("containers")),
            (json!({"initContainers": {}}), TemplateError::List("initContainers")),
            (json!({"volumes": ["v"]}), TemplateError::List("volumes")),
            (json!({"containers": [{"name": "task", "env": {}}]}), TemplateError::Field("env", "a list")),
            (json!({"containers": [{"name": "task", "resources": 1}]}), TemplateError::Field("resources", "a mapping")),
        ] {
            assert_eq!(check(&template), Err(error), "{template}");
        }
        for template in [
            json!({}),
            json!({"containers": null, "nodeSelectorr": 1}),
            json!({"containers": [{"name": "x", "env": 1}]}),
        ] {
            assert_eq!(check(&template), Ok(()), "{template}");
        }
    }

    #[test]
    fn what_is_laid_over_stands_in_the_place_of_its_like() {
        let mut list = vec![json!({"name": "a", "value": 1}), json!({"name": "b"}), json!({"value": 2})];
        lay(&mut list, [json!({"name": "c"}), json!({"name": "a"}), json!({"other": 1})], "name");
        assert_eq!(json!(list), json!([{"name": "a"}, {"name": "b"}, {"value": 2}, {"name": "c"}, {"other": 1}]));
    }
}
