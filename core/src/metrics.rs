//! What to count: the metric events of the protocol, and the closed sets their labels are drawn from.
//!
//! An event is small and `Copy`; recording one must cost no more than a memory write. No event names a task, so the
//! number of series is fixed when the program is compiled. The catalogue is written down in `docs/metrics.md`.

use core::time::Duration;

/// Declares one closed label set: an enum, its values as they stand in the metrics, and the list of all of them, from
/// which the series are pre-seeded. A value that is added here cannot be forgotten there.
macro_rules! label_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$value_doc])* $variant),+ }

        impl $name {
            /// Every value, in declaration order: `ALL[value as usize] == value`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value as it stands in metrics, and on the wire where the protocol carries it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

label_set! {
    /// Label `result` of `oz_worker_tasks_completed_total` and `oz_worker_task_duration_seconds`.
    TaskResult {
        /// The task ran and exited 0.
        Succeeded = "succeeded",
        /// The task could not be run, exited non-zero, or was stopped by the worker's shutdown.
        Failed = "failed",
        /// The user cancelled the task.
        Cancelled = "cancelled",
        /// The task was handed to a remote runtime, which reports its end itself.
        Dispatched = "dispatched",
    }
}

label_set! {
    /// Label `reason` of `oz_worker_tasks_rejected_total`.
    RejectReason {
        /// Every slot is taken.
        AtCapacity = "at_capacity",
        /// The worker is draining or stopping.
        ShuttingDown = "shutting_down",
        /// Another execution of the same task is still active.
        AlreadyRunning = "already_running",
        /// A task that was claimed has not started for too long: the next one would not either.
        NotReady = "not_ready",
    }
}

label_set! {
    /// Label `reason` of `oz_worker_websocket_reconnects_total`.
    ReconnectReason {
        /// A dial ended without an established connection.
        DialFailed = "dial_failed",
        /// An established connection ended, and not because the worker shut down.
        RemoteClose = "remote_close",
    }
}

label_set! {
    /// Label `phase` of `oz_worker_task_failures_total`: where in a task's life it failed.
    FailurePhase {
        /// The assignment could not be understood.
        Assignment = "assignment",
        /// The backend could not run the task, or the task itself failed.
        Backend = "backend",
        /// What follows the task failed: teardown command, removal of the workspace. Never changes the task's result.
        Cleanup = "cleanup",
    }
}

label_set! {
    /// Label `reason` of `oz_worker_task_failures_total`, and `failure_reason` of a `task_failed` message.
    FailureReason {
        /// Nothing more precise is known.
        Unknown = "unknown",
        /// The task took longer than it may.
        TaskTimeout = "task_timeout",
        /// The task was cancelled.
        TaskCancelled = "task_cancelled",
        /// The worker was shut down while the task ran.
        GracefulShutdown = "graceful_shutdown",
        /// An image could not be pulled.
        ImagePull = "image_pull",
        /// A sidecar's files could not be prepared.
        SidecarPrep = "sidecar_prep",
        /// The container could not be created.
        ContainerCreate = "container_create",
        /// The container could not be started.
        ContainerStart = "container_start",
        /// The end of the container could not be awaited.
        ContainerWait = "container_wait",
        /// The container exited non-zero.
        ContainerExit = "container_exit",
        /// The container was killed for lack of memory.
        ContainerOom = "container_oom",
        /// The workspace could not be made.
        WorkspaceSetup = "workspace_setup",
        /// The setup command failed.
        SetupCommand = "setup_command",
        /// The agent could not be started, or exited non-zero.
        AgentInvocation = "agent_invocation",
        /// The teardown command failed.
        TeardownCommand = "teardown_command",
        /// The dispatch command failed.
        DispatchCommand = "dispatch_command",
        /// The dispatch command took longer than `dispatch_timeout`.
        DispatchTimeout = "dispatch_timeout",
        /// The cancel command failed.
        CancelCommand = "cancel_command",
        /// The Job could not be created.
        JobCreate = "job_create",
        /// The Job could not be watched.
        JobWatch = "job_watch",
        /// The Job failed.
        JobFailed = "job_failed",
        /// The Pod was evicted.
        Evicted = "evicted",
        /// The Pods could not be watched.
        PodWatch = "pod_watch",
        /// No node could take the Pod.
        Unschedulable = "unschedulable",
        /// A volume could not be mounted.
        VolumeMount = "volume_mount",
        /// An init container failed.
        InitContainer = "init_container",
        /// The name of an image is not one.
        InvalidImage = "invalid_image",
        /// The Job's active deadline passed.
        ActiveDeadline = "active_deadline",
        /// What the task left behind could not be removed.
        Cleanup = "cleanup",
    }
}

/// Something to count. The sum of all events since the start is the state of every instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MetricEvent {
    /// A connection is established: `oz_worker_connected` becomes 1.
    Connected,
    /// The established connection ended: `oz_worker_connected` becomes 0.
    Disconnected,
    /// A dial failed, or an established connection ended: `oz_worker_websocket_reconnects_total{reason}` + 1.
    Reconnect(ReconnectReason),
    /// A task took a slot: `oz_worker_tasks_claimed_total` + 1, `oz_worker_tasks_active` + 1.
    TaskClaimed,
    /// A task that was claimed before the worker was killed goes on: `oz_worker_tasks_active` + 1.
    TaskResumed,
    /// An assignment was declined: `oz_worker_tasks_rejected_total{reason}` + 1.
    TaskRejected(RejectReason),
    /// A claimed task ended and its slot is free: `oz_worker_tasks_active` - 1,
    /// `oz_worker_tasks_completed_total{result}` + 1, `oz_worker_task_duration_seconds{result}` observes `duration`.
    TaskCompleted {
        result: TaskResult,
        /// Time since the claim, as the clock on the wall would have shown it (suspends included).
        duration: Duration,
    },
    /// Something about a task failed: `oz_worker_task_failures_total{phase,reason}` + 1.
    TaskFailure { phase: FailurePhase, reason: FailureReason },
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::string::ToString;

    use super::*;

    /// A series is found by its value's place, and known outside by its text.
    macro_rules! assert_is_a_label_set {
        ($name:ident) => {
            assert!($name::ALL.iter().enumerate().all(|(place, value)| *value as usize == place));
            let texts: BTreeSet<_> = $name::ALL.iter().map(ToString::to_string).collect();
            assert_eq!(texts.len(), $name::ALL.len());
            assert!(texts.iter().all(|text| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        };
    }

    #[test]
    fn each_value_has_a_place_and_a_text_of_its_own() {
        assert_is_a_label_set!(TaskResult);
        assert_is_a_label_set!(RejectReason);
        assert_is_a_label_set!(ReconnectReason);
        assert_is_a_label_set!(FailurePhase);
        assert_is_a_label_set!(FailureReason);
    }
}
