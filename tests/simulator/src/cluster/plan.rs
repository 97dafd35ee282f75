//! What a Pod is going to do, drawn when its Job is made.

use std::time::Duration;

use crate::executor::Executor;

/// What becomes of a Pod once it has a node.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What stands in its way, and for how long; for ever when there is no end.
    pub trouble: Option<(Trouble, Option<Duration>)>,
    /// How long image and volumes take that are there.
    pub prepares: Duration,
    /// The exit code of an init container that fails.
    pub init_fails: Option<i32>,
    /// How long the task runs; for ever when there is none.
    pub length: Option<Duration>,
    pub exit_code: i32,
    pub is_oom: bool,
    /// How long after SIGTERM it ends; never when it ignores that.
    pub heeds: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The kubelet refuses the Pod.
    Refused,
    /// The name of the image is none.
    BadName,
    /// The registry says that there is no such image.
    NoImage,
    /// The registry is out of reach.
    NoRegistry,
    /// A Secret is not there that a container wants.
    NoSecret,
    /// A volume cannot be mounted, since what it is made of is not there.
    NoVolume,
    /// A volume cannot be mounted yet.
    SlowVolume,
}

impl Trouble {
    /// What the kubelet says of a container that waits: reason and message.
    pub const fn waiting(self) -> [&'static str; 2] {
        match self {
            Self::BadName => ["InvalidImageName", "couldn't parse image name"],
            Self::NoImage => ["ErrImagePull", "failed to resolve reference: not found"],
            Self::NoRegistry => ["ImagePullBackOff", "Back-off pulling image: dial tcp: connect: connection refused"],
            Self::NoSecret => ["CreateContainerConfigError", "secret \"s\" not found"],
            Self::Refused | Self::NoVolume | Self::SlowVolume => ["ContainerCreating", ""],
        }
    }

    /// The warning event: reason and message.
    pub const fn event(self) -> [&'static str; 2] {
        match self {
            Self::Refused => ["OutOfcpu", "Node didn't have enough resource: cpu"],
            Self::BadName => ["InspectFailed", "couldn't parse image name"],
            Self::NoImage | Self::NoRegistry | Self::NoSecret => ["Failed", "Error: see the container"],
            Self::NoVolume => ["FailedMount", "MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found"],
            Self::SlowVolume => ["FailedMount", "MountVolume.SetUp failed : failed to sync configmap cache"],
        }
    }

    /// By which reasons a task ends that it keeps from starting.
    pub const fn reasons(self) -> &'static [&'static str] {
        match self {
            Self::Refused => &["job_failed"],
            Self::BadName => &["invalid_image"],
            Self::NoImage | Self::NoRegistry => &["image_pull"],
            Self::NoSecret => &["container_create"],
            Self::NoVolume | Self::SlowVolume => &["volume_mount", "container_create"],
        }
    }
}

impl Plan {
    /// Of a Pod in whose way nothing is, and which ends well.
    pub const fn calm(prepares: Duration, length: Option<Duration>) -> Self {
        Self { trouble: None, prepares, init_fails: None, length, exit_code: 0, is_oom: false, heeds: Some(prepares) }
    }

    pub fn draw(executor: &Executor, faulty: bool) -> Self {
        let number = |below| executor.random(|random| random.u32(..below));
        let seconds = |from, to| executor.duration(Duration::from_secs_f64(from), Duration::from_secs_f64(to));
        let longest = if faulty { 4.0 * 3600.0 } else { 600.0 };
        let length = (!(faulty && executor.chance(8))).then(|| seconds(0.001, longest));
        let mut plan = Self::calm(seconds(0.01, 10.0), length);
        if !faulty {
            return plan;
        }
        // What is in the way may go away.
        let until = |executor: &Executor| executor.chance(60).then(|| seconds(1.0, 100.0));
        plan.trouble = match number(100) {
            0..2 => Some((Trouble::Refused, None)),
            2..4 => Some((Trouble::BadName, None)),
            4..8 => Some((Trouble::NoImage, until(executor))),
            8..13 => Some((Trouble::NoRegistry, until(executor))),
            13..15 => Some((Trouble::NoSecret, until(executor))),
            15..17 => Some((Trouble::NoVolume, until(executor))),
            17..20 => Some((Trouble::SlowVolume, until(executor))),
            _ => None,
        };
        plan.init_fails = executor.chance(5).then(|| executor.random(|random| random.i32(1..256)));
        (plan.exit_code, plan.is_oom) = match number(100) {
            ..65 => (0, false),
            65..85 => (executor.random(|random| random.i32(1..256)), false),
            85..90 => (137, false),
            90..97 => (137, true),
            // Something in it ran out of memory, and it ended well all the same.
            _ => (0, true),
        };
        plan.heeds = (!executor.chance(20)).then(|| seconds(0.001, 60.0));
        plan
    }
}
