//! Which step of its way a task is in, as the page and the task's trace tell it.

use std::fmt;

use opentelemetry::KeyValue;

/// A step of a task's way to its end. Each is a span below the task's; which of them a task goes through is its backend's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStep {
    /// Its Job is being created.
    Creating,
    /// Its Pod waits for a node, for this reason in the cluster's words.
    Waiting { reason: Option<String> },
    /// An image is being pulled; of what is known of its layers so much is there, in percent.
    Pulling { image: String, percent: Option<u8> },
    /// The files of the sidecar with this image are being prepared.
    Preparing { image: String },
    /// The setup command runs.
    SettingUp,
    /// The agent runs, on this node of a cluster.
    Running { node: Option<String> },
    /// The dispatch command runs.
    Dispatching,
    /// The teardown command runs.
    TearingDown,
}

impl TaskStep {
    /// The name of its span.
    pub(crate) const fn span(&self) -> &'static str {
        match self {
            Self::Creating => "oz_worker.task.create",
            Self::Waiting { .. } => "oz_worker.task.schedule",
            Self::Pulling { .. } => "oz_worker.task.pull",
            Self::Preparing { .. } => "oz_worker.task.sidecar",
            Self::SettingUp => "oz_worker.task.setup",
            Self::Running { .. } => "oz_worker.task.run",
            Self::Dispatching => "oz_worker.task.dispatch",
            Self::TearingDown => "oz_worker.task.teardown",
        }
    }

    /// What its span has beside the name (OpenTelemetry semantic conventions, "Container" and "K8s").
    pub(crate) fn attribute(&self) -> Option<KeyValue> {
        match self {
            Self::Pulling { image, .. } | Self::Preparing { image } => {
                Some(KeyValue::new("container.image.name", image.clone()))
            }
            Self::Running { node: Some(node) } => Some(KeyValue::new("k8s.node.name", node.clone())),
            _ => None,
        }
    }

    /// Whether this is `other` some time later: the same span.
    pub(crate) fn goes_on(&self, other: &Self) -> bool {
        self.span() == other.span() && self.attribute() == other.attribute()
    }

    /// Whether the agent, or the dispatch command, has been started.
    pub(crate) const fn is_start(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Dispatching)
    }

    /// Whether the task has ended when it begins.
    pub(crate) const fn is_after_the_end(&self) -> bool {
        matches!(self, Self::TearingDown)
    }
}

/// For a person.
impl fmt::Display for TaskStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creating => f.write_str("Creating its Job"),
            Self::Waiting { reason: None } => f.write_str("Waiting for a node"),
            Self::Waiting { reason: Some(reason) } => write!(f, "Waiting for a node: {reason}"),
            Self::Pulling { image, percent: None } => write!(f, "Pulling {image}"),
            Self::Pulling { image, percent: Some(percent) } => write!(f, "Pulling {image}: {percent} %"),
            Self::Preparing { image } => write!(f, "Preparing sidecar {image}"),
            Self::SettingUp => f.write_str("Running the setup command"),
            Self::Running { node: None } => f.write_str("Running"),
            Self::Running { node: Some(node) } => write!(f, "Running on {node}"),
            Self::Dispatching => f.write_str("Running the dispatch command"),
            Self::TearingDown => f.write_str("Running the teardown command"),
        }
    }
}
