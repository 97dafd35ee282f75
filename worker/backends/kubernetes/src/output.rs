//! What a task's container wrote, into the log after a failure: its end, without secrets.

use std::sync::Arc;

use oz_worker_contract::last_output::{self, Last, MOST_READ};
use oz_worker_contract::output::TaskLog;
use oz_worker_contract::redaction::redact;
use oz_worker_core::secret::Variables;
use oz_worker_runtime::Host;
use serde_json::Value;
use tracing::warn;

use super::Shared;
use super::cluster::{Call, Kind, refused};
use super::error::ApiError;
use super::held::Created;
use super::scripts::plain;
use super::template::TASK;

impl<R: Host> Shared<R> {
    /// Logs the end of what the container of a task wrote; `variables` is what the task was started with, if that is known.
    pub(super) async fn log_output(
        &self,
        pod: &str,
        created: &Created,
        variables: Option<&Variables>,
        task_id: &str,
        log: &Arc<dyn TaskLog>,
    ) {
        // Held until it is logged: a text of a mebibyte is not nothing.
        let turn = match self.cluster.turn(Kind::Log).await {
            Ok(turn) => turn,
            Err(error) => return not_shown(task_id, &error),
        };
        let read = self.cluster.within(last_output::LIMIT, async {
            let text = last_output::read(|lines| self.output(pod, lines)).await?;
            if let Some(variables) = variables {
                return Ok(redact(text, variables.iter().map(|(name, value)| (name, value.expose()))));
            }
            let job: Value = self.cluster.once(&Call::get(self.cluster.job(&created.name))).await?;
            Ok(redact_by(text, &job))
        });
        let read = read.await;
        if !matches!(read, Err(ApiError::Silent(_))) {
            turn.is_answered(self.cluster.runtime().now());
        }
        match read {
            Ok(text) => {
                last_output::show(self.cluster.runtime(), text, log).await;
            }
            // It was removed with its output, or the Role does not show it.
            Err(ApiError::Status { status: 403 | 404, .. }) => {}
            Err(error) => not_shown(task_id, &error),
        }
    }

    /// The end of so many last lines. None: they are too long.
    async fn output(&self, pod: &str, lines: u32) -> Result<Option<Vec<u8>>, ApiError> {
        let path = self.cluster.core(&format!("pods/{pod}/log"));
        let call = Call::get(format!("{path}?container={TASK}&tailLines={lines}")).at_once();
        let mut opened = self.cluster.open(&call).await?;
        let (mut last, mut read) = (Last::default(), 0);
        while let Some(chunk) = opened.body.chunk().await? {
            last.take(&chunk);
            read += chunk.len() as u64;
            if read > MOST_READ {
                return Ok(None);
            }
        }
        let text = last.finish();
        refused(&opened, &text)?;
        Ok(Some(text))
    }
}

fn not_shown(task_id: &str, error: &ApiError) {
    warn!(task_id, "cannot show what the container wrote: {error}");
}

/// The same without the values of the variables that a Job gives its task.
fn redact_by(text: Vec<u8>, job: &Value) -> Vec<u8> {
    let containers = job.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let is_task = |container: &&Value| container.get("name").and_then(Value::as_str) == Some(TASK);
    let task = containers.into_iter().flatten().find(is_task);
    let variables = task.and_then(|task| task.get("env")?.as_array());
    let field = |variable: &Value, name: &str| variable.get(name).and_then(Value::as_str).map(plain);
    let variables: Vec<(String, String)> =
        variables.into_iter().flatten().filter_map(|one| Some((field(one, "name")?, field(one, "value")?))).collect();
    redact(text, variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_earlier_worker_gave_its_task_is_kept_secret_too() {
        let env = json!([{"name": "KEY", "value": "can$$$$ary"}, {"name": "FROM", "valueFrom": {}}]);
        let containers = json!([{"name": "other"}, {"name": "task", "env": env}]);
        let job = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        assert_eq!(redact_by(b"key: can$$ary".to_vec(), &job), b"key: ***");
        assert_eq!(redact_by(b"key".to_vec(), &json!({})), b"key");
    }
}
