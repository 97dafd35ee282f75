//! How the cluster is reached, found as kubectl finds it.

use std::path::{Path, PathBuf};

use oz_worker_contract::Common;
use oz_worker_runtime::{Environment, Files, Host, Lane, Machine};
use tracing::warn;

use super::access::{Access, SERVICE_ACCOUNT, in_cluster};
use super::cluster::Cluster;
use super::credentials::Credentials;
use super::instance::OwnPod;
use super::kubeconfig::Kubeconfig;
use super::settings::KubernetesSettings;

/// The largest kubeconfig.
const LARGEST_FILE: u64 = 4 << 20;

/// How the cluster is reached, found as kubectl finds it, and in which of its Pods this is. It was not called yet.
///
/// # Errors
/// What stands in the way, in one line.
pub async fn reach<R: Host>(
    settings: &KubernetesSettings,
    common: &Common<R>,
) -> Result<(Cluster<R>, Option<OwnPod>), String> {
    let (given, env) = (settings.kubeconfig.clone(), common.host_env.clone());
    let has_context = settings.context.is_some();
    let find = move |machine: &R::Machine| find(machine.files(), given, has_context, &env);
    let mut own = None;
    let access = match common.runtime.on(Lane::Start, find).await? {
        Place::Pod(access, pod) => {
            if pod.is_none() {
                warn!(
                    "the service account's token names no Pod: what this worker leaves is taken up on this node only"
                );
            }
            own = pod;
            *access
        }
        // Here and not there: those threads have little stack.
        Place::Files(files) => merged(&files, settings.context.as_deref())?,
    };
    let prefix = access.server.path_and_query().path().trim_end_matches('/').to_owned();
    let credentials = Credentials::new(common.runtime.clone(), common.host_env.clone(), access);
    let credentials = credentials.map_err(|error| error.to_string())?;
    Ok((Cluster::new(common.runtime.clone(), credentials, prefix, settings.namespace.clone()), own))
}

/// Where it says how the cluster is reached.
enum Place {
    /// This is a Pod of it; which one, if that is known.
    Pod(Box<Access>, Option<OwnPod>),
    /// In kubeconfigs.
    Files(Vec<File>),
}

/// The path where a kubeconfig may be, and what is there.
type File = (PathBuf, Option<Vec<u8>>);

fn find(files: &impl Files, given: Option<PathBuf>, has_context: bool, env: &Environment) -> Result<Place, String> {
    let text = |name: &str| env.get(name).map(|value| value.to_string_lossy().into_owned());
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let read = |path: PathBuf| {
        let text = files.read(&path, LARGEST_FILE);
        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok::<_, String>((path, text))
    };
    if let Some(path) = given {
        return match read(absolute(path))? {
            (path, None) => Err(format!("there is no kubeconfig {}", path.display())),
            file => Ok(Place::Files(vec![file])),
        };
    }
    if !has_context
        && let Some(access) = in_cluster(&text)
        && files.named(&Path::new(SERVICE_ACCOUNT).join("token")).is_ok()
    {
        let token = files.read(&Path::new(SERVICE_ACCOUNT).join("token"), LARGEST_FILE).ok().flatten();
        return Ok(Place::Pod(Box::new(access), token.as_deref().and_then(OwnPod::of_token)));
    }
    let paths: Vec<PathBuf> = match env.get("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => text("HOME")
            .filter(|home| !home.is_empty())
            .iter()
            .map(|home| Path::new(home).join(".kube/config"))
            .collect(),
    };
    Ok(Place::Files(paths.into_iter().map(|path| read(absolute(path))).collect::<Result<_, _>>()?))
}

/// What kubeconfigs say together. One that is not there is as good as an empty one.
fn merged(files: &[File], context: Option<&str>) -> Result<Access, String> {
    let mut kubeconfig = Kubeconfig::default();
    for (path, text) in files {
        kubeconfig.add(path, text.as_deref().unwrap_or_default()).map_err(|error| error.to_string())?;
    }
    if kubeconfig.is_empty() {
        return Err(nowhere(files));
    }
    kubeconfig.access(context).map_err(|error| error.to_string())
}

/// What is said where nothing leads to a cluster.
fn nowhere(files: &[File]) -> String {
    let looked = |(path, text): &File| match text {
        None => format!("{} does not exist", path.display()),
        Some(_) => format!("{} says nothing", path.display()),
    };
    let looked: Vec<_> = files.iter().map(looked).collect();
    let looked = if looked.is_empty() { "KUBECONFIG and HOME name no file".to_owned() } else { looked.join(", ") };
    format!("no cluster is configured: this is no Pod, and {looked}; set kubeconfig or KUBECONFIG")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::fs;

    use oz_worker_host::HostFiles;

    use super::*;

    const ONE: &str =
        "{clusters: [{name: k, cluster: {server: 'https://one'}}], contexts: [{name: a, context: {cluster: k}}]}";
    const TWO: &str = "current-context: a";

    /// The server that these lead to, or why there is none.
    fn server(given: Option<PathBuf>, context: Option<&str>, env: &[(&str, &Path)]) -> Result<String, String> {
        let env = env.iter().map(|(name, value)| (*name, *value)).collect();
        match find(&HostFiles, given, context.is_some(), &env)? {
            Place::Files(files) => merged(&files, context).map(|access| access.server.authority().to_string()),
            Place::Pod(..) => Ok("a Pod's own".into()),
        }
    }

    #[test]
    fn a_kubeconfig_is_found_where_kubectl_finds_it() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at(".kube")).unwrap();
        fs::write(at(".kube/config"), format!("{{current-context: a, {}", ONE.trim_start_matches('{'))).unwrap();
        fs::write(at("one"), ONE).unwrap();
        fs::write(at("two"), TWO).unwrap();
        let list = std::env::join_paths([at("none"), at("one"), at("two")]).unwrap();
        let nowhere = at("nowhere");
        for (given, context, env) in [
            (Some(at("one")), Some("a"), &[("KUBECONFIG", nowhere.as_path())][..]),
            (None, None, &[("HOME", home.path())]),
            (None, None, &[("HOME", home.path()), ("KUBECONFIG", Path::new(""))]),
            (None, None, &[("HOME", &nowhere), ("KUBECONFIG", Path::new(&list))]),
        ] {
            assert_eq!(server(given, context, env).as_deref(), Ok("one:443"), "{env:?}");
        }
    }

    #[test]
    fn where_nothing_leads_to_a_cluster_it_says_where_it_looked() {
        let home = tempfile::tempdir().unwrap();
        let (none, empty) = (home.path().join("none"), home.path().join("empty"));
        fs::write(&empty, "# nothing").unwrap();
        let list = std::env::join_paths([&none, &empty]).unwrap();
        let (none_at, empty_at) = (none.display(), empty.display());
        let said = |env: &[(&str, &Path)]| server(None, None, env).unwrap_err();
        let begins = "no cluster is configured: this is no Pod, and";
        let ends = "; set kubeconfig or KUBECONFIG";
        let both = format!("{begins} {none_at} does not exist, {empty_at} says nothing{ends}");
        assert_eq!(said(&[("KUBECONFIG", Path::new(&list))]), both);
        assert_eq!(said(&[("HOME", &none)]), format!("{begins} {none_at}/.kube/config does not exist{ends}"));
        let no_file = format!("{begins} KUBECONFIG and HOME name no file{ends}");
        assert_eq!(said(&[("HOME", Path::new(""))]), no_file);
        assert_eq!(said(&[("HOME", home.path()), ("KUBECONFIG", Path::new(":"))]), no_file);
        assert_eq!(server(Some(none.clone()), None, &[]), Err(format!("there is no kubeconfig {none_at}")));
    }
}
