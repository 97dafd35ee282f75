//! Plays a [`Watch`] against the API server, and tells the followers what happened.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_contract::Latch;
use oz_worker_contract::query::escaped;
use oz_worker_core::time::Instant;
use oz_worker_runtime::Host;
use tracing::{info, warn};

use super::cluster::{Call, Cluster, Opened, refused};
use super::error::{ApiError, CREDENTIAL_PATIENCE, PATIENCE};
use super::followers::Followers;
use super::objects::{Job, Pod, Watched};
use super::watch::{Happening, Request, SILENCE, Step, Watch};

/// How many objects a page of a list has.
const PAGE: u32 = 500;
/// After how long an API server is asked to end a watch by itself, in seconds.
const WATCH_LENGTH: u32 = 290;
/// The most that is read of an answer that is an error, in bytes.
const LARGEST_ERROR: usize = 64 << 10;
/// How often it is said that a watch fails.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// What the watches of a worker have in common.
pub struct Watcher<R: Host> {
    pub cluster: Arc<Cluster<R>>,
    pub followers: Arc<Followers>,
    /// By which label its objects are found.
    pub selector: String,
    /// Set when nobody follows anything any more.
    pub over: Latch,
}

/// A kind of object that is watched for the followers.
pub trait Told: Watched {
    /// What it is called.
    const NAME: &'static str;

    fn tell(followers: &Followers, happening: Happening<Self>);
}

impl Told for Job {
    const NAME: &'static str = "Jobs";

    fn tell(followers: &Followers, happening: Happening<Self>) {
        match happening {
            Happening::Seen(job) => followers.job_seen(job),
            Happening::Gone { uid, last, .. } => followers.job_gone(&uid, last),
            Happening::Listed => followers.jobs_listed(),
        }
    }
}

impl Told for Pod {
    const NAME: &'static str = "Pods";

    fn tell(followers: &Followers, happening: Happening<Self>) {
        match happening {
            Happening::Seen(pod) => {
                if let Some(job) = pod.job().map(str::to_owned) {
                    followers.pod_seen(&job, pod);
                }
            }
            Happening::Gone { uid, job, last } => followers.pod_gone(&job, &uid, last),
            Happening::Listed => followers.pods_listed(),
        }
    }
}

/// What is said of a watch that fails.
#[derive(Default)]
struct Trouble {
    why: String,
    is_about_credentials: bool,
    said: Option<Instant>,
    is_told: bool,
}

impl<R: Host> Watcher<R> {
    /// Watches the objects at `path` until it is over.
    pub async fn watch<T: Told>(&self, path: String) {
        let over = async {
            self.over.wait().await;
        };
        Box::pin(self.play::<T>(&path)).or(over).await;
    }

    async fn play<T: Told>(&self, path: &str) {
        let runtime = self.cluster.runtime();
        let mut watch = Watch::<T>::new(runtime.now(), fastrand::u64(..));
        let mut trouble = Trouble::default();
        let mut open: Option<Opened<R>> = None;
        loop {
            let now = runtime.now();
            match watch.poll(now) {
                Step::GiveUp => {
                    open = None;
                    if trouble.why.is_empty() {
                        trouble.why = format!("nothing came for {} s", SILENCE.as_secs());
                    }
                }
                Step::Send(request) => {
                    let call = Call::get(format!("{path}?{}", self.query(&request))).at_once();
                    match self.cluster.open(&call).await {
                        Ok(mut opened) => {
                            if opened.status != 200 {
                                trouble.note(&refusal(&self.cluster, &mut opened).await);
                            }
                            watch.handle_head(runtime.now(), opened.status, opened.retry_after);
                            open = Some(opened);
                        }
                        Err(error) => {
                            trouble.note(&error);
                            watch.handle_end(runtime.now(), false);
                        }
                    }
                }
                Step::Wait(until) => match &mut open {
                    None => runtime.sleep_until(until).await,
                    Some(opened) => {
                        let chunk = async { Some(opened.body.chunk().await) };
                        let late = async {
                            runtime.sleep_until(until).await;
                            None
                        };
                        match chunk.or(late).await {
                            Some(Ok(Some(bytes))) => watch.handle_bytes(runtime.now(), &bytes),
                            Some(Ok(None)) => {
                                open = None;
                                watch.handle_end(runtime.now(), true);
                            }
                            Some(Err(error)) => {
                                open = None;
                                trouble.note(&error.into());
                                watch.handle_end(runtime.now(), false);
                            }
                            None => {}
                        }
                    }
                },
            }
            while let Some(happening) = watch.poll_happening() {
                T::tell(&self.followers, happening);
            }
            self.complain::<T>(runtime.now(), watch.failing_since(), &mut trouble);
        }
    }

    fn query(&self, request: &Request) -> String {
        let selector = escaped(&self.selector);
        match request {
            Request::List { page: None } => format!("labelSelector={selector}&limit={PAGE}"),
            Request::List { page: Some(token) } => {
                format!("labelSelector={selector}&limit={PAGE}&continue={}", escaped(token))
            }
            Request::Watch { version } => format!(
                "labelSelector={selector}&watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_LENGTH}&resourceVersion={}",
                escaped(version)
            ),
        }
    }

    fn complain<T: Told>(&self, now: Instant, failing: Option<Instant>, trouble: &mut Trouble) {
        let Some(since) = failing else {
            if trouble.said.take().is_some() {
                info!("{} can be watched again", T::NAME);
            }
            *trouble = Trouble::default();
            return;
        };
        // Of credentials is told where they are read; what lasts a moment is nobody's concern.
        let is_due =
            trouble.said.map_or(since.plus(Duration::from_secs(5)), |said| said.plus(COMPLAINT_INTERVAL)) <= now;
        if is_due && !trouble.is_about_credentials && !trouble.why.is_empty() {
            trouble.said = Some(now);
            warn!("cannot watch {}: {}", T::NAME, trouble.why);
        }
        let patience = if trouble.is_about_credentials { CREDENTIAL_PATIENCE } else { PATIENCE };
        if now.since(since) >= patience && !trouble.is_told {
            trouble.is_told = true;
            self.followers.blind(&trouble.why);
        }
    }
}

impl Trouble {
    fn note(&mut self, error: &ApiError) {
        self.why = error.to_string();
        self.is_about_credentials = error.is_about_credentials();
    }
}

/// What an answer says that is an error.
async fn refusal<R: Host>(cluster: &Cluster<R>, opened: &mut Opened<R>) -> ApiError {
    let text = cluster.within(Duration::from_secs(5), async { Ok(opened.body.read_whole(LARGEST_ERROR).await?) }).await;
    refused(opened, &text.unwrap_or_default()).err().unwrap_or(ApiError::Form)
}
