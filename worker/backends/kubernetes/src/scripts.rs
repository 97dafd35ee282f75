//! What the containers of a task run: short scripts for any POSIX shell, dash's and busybox's included.

/// Where a sidecar's files are copied to, in the init container that copies them.
pub const TARGET: &str = "/target";

/// Copies everything that the image has to [`TARGET`], with whichever of `cp` and `tar` it has. What is not the image's but
/// the cluster's is left out: the kernel's file systems, and the service account's token.
pub const COPY: &str = r#"set -e
cd /
set --
for entry in * .[!.]* ..?*; do
  case "$entry" in target|proc|sys|dev) continue ;; esac
  if [ -e "$entry" ] || [ -L "$entry" ]; then set -- "$@" "$entry"; fi
done
[ $# -gt 0 ] || exit 0
if command -v cp >/dev/null; then
  cp -a "$@" /target/
else
  { tar -cf - "$@" || : >/target/.copy-failed; } | tar -xf - -C /target
  [ ! -e /target/.copy-failed ]
fi
for run in run var/run; do
  if [ -d "/target/$run/secrets/kubernetes.io" ] && [ ! -L "/target/$run" ]; then
    rm -rf "/target/$run/secrets/kubernetes.io"
  fi
done
"#;

/// Reads what a setup command left for the environment.
const ENVIRONMENT: &str = "if [ -f /workspace/.oz-env ]; then set -a; . /workspace/.oz-env; set +a; fi\n";

/// Becomes the agent.
const BECOME: &str = "exec /agent/entrypoint.sh \"$@\"\n";

/// Runs the agent, and passes on what it is asked and how it ends. Kubernetes runs the teardown command itself (preStop) where
/// it stops the container, so it is run here only for an agent that ended by itself.
const FOLLOW: &str = r#"agent=
asked=
trap 'asked=1; [ -z "$agent" ] || kill -TERM "$agent" 2>/dev/null' TERM
/agent/entrypoint.sh "$@" &
agent=$!
[ -z "$asked" ] || kill -TERM "$agent" 2>/dev/null
wait "$agent"
code=$?
while kill -0 "$agent" 2>/dev/null; do wait "$agent"; code=$?; done
[ -n "$asked" ] || /bin/sh -c "$teardown" || echo "the teardown command exited with $?" >&2
exit "$code"
"#;

/// What a task's container runs; its arguments are the agent's.
pub fn task(teardown: Option<&str>) -> String {
    match teardown {
        None => format!("{ENVIRONMENT}{BECOME}"),
        Some(command) => format!("{ENVIRONMENT}teardown={}\n{FOLLOW}", quoted(command)),
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A text that reaches a container as it is: Kubernetes replaces `$(NAME)` by a variable, and `$$` by `$`.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        escaped.push(c);
        if c == '$' && matches!(rest.peek(), Some('$' | '(')) {
            escaped.push('$');
        }
    }
    escaped
}

/// What [`escaped`] was given.
pub fn plain(escaped: &str) -> String {
    escaped.replace("$$", "$")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Output};

    use proptest::prelude::*;

    use super::*;

    /// What Kubernetes makes of a value when none of the variables is known (`expansion.Expand`).
    fn expanded(text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            expanded.push(c);
            if c == '$' && rest.peek() == Some(&'$') {
                rest.next();
            } else if c == '$' && rest.peek() == Some(&'(') {
                expanded.push_str("replaced");
            }
        }
        expanded
    }

    proptest! {
        #[test]
        fn what_is_escaped_arrives_as_it_was(text in r"[$()ab]{0,12}") {
            prop_assert_eq!(plain(&escaped(&text)), text.clone());
            prop_assert_eq!(expanded(&escaped(&text)), text);
        }

        #[test]
        fn what_is_quoted_is_one_word(text in r"[ '$a\\]{0,12}") {
            let said = Command::new("/bin/sh").args(["-c", &format!("printf %s {}", quoted(&text))]).output().unwrap();
            prop_assert_eq!(String::from_utf8(said.stdout).unwrap(), text);
        }
    }

    /// Runs a script as if the paths of a container were below `root`.
    fn run(script: &str, root: &Path, args: &[&str]) -> Output {
        let at = |path: &str| format!("{}{path}", root.display());
        let script = script.replace("cd /\n", &format!("cd {}\n", at("/rootfs")));
        let script =
            ["/target", "/agent", "/workspace"].iter().fold(script, |text, path| text.replace(path, &at(path)));
        Command::new("/bin/sh").args(["-c", &script, "sh"]).args(args).current_dir(root).output().unwrap()
    }

    fn container(agent: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in
            ["agent", "workspace", "target", "rootfs/etc", "rootfs/proc", "rootfs/run/secrets/kubernetes.io"]
        {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let entrypoint = root.path().join("agent/entrypoint.sh");
        std::fs::write(&entrypoint, format!("#!/bin/sh\n{agent}\n")).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&entrypoint, executable).unwrap();
        root
    }

    #[test]
    fn the_agent_gets_its_arguments_and_what_setup_left_in_the_environment() {
        let root = container(r#"printf '%s|' "$@" "$A"; exit 3"#);
        std::fs::write(root.path().join("workspace/.oz-env"), "A=\"b c\"\n").unwrap();
        for script in [task(None), task(Some("true"))] {
            let output = run(&script, root.path(), &["agent", "", "l1\nl2", "$HOME"]);
            assert_eq!(String::from_utf8(output.stdout).unwrap(), "agent||l1\nl2|$HOME|b c|");
            assert_eq!(output.status.code(), Some(3));
        }
    }

    #[test]
    fn teardown_runs_after_an_agent_that_ended_by_itself_and_changes_nothing() {
        let root = container("echo agent; exit 3");
        let output = run(&task(Some("echo \"it's\" over; exit 1")), root.path(), &[]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "agent\nit's over\n");
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn an_agent_that_is_asked_to_stop_gets_to_know_it_and_teardown_is_left_to_kubernetes() {
        let root =
            container("trap 'exit 143' TERM; kill -TERM $PPID; for i in 1 2 3 4 5 6; do sleep 10 & wait $!; done");
        let output = run(&task(Some("echo torn")), root.path(), &[]);
        assert_eq!((output.status.code(), output.stdout), (Some(143), Vec::new()));
    }

    #[test]
    fn a_sidecar_is_copied_without_what_is_the_clusters() {
        let root = container("");
        let rootfs = root.path().join("rootfs");
        std::fs::write(rootfs.join("etc/.hidden"), "x").unwrap();
        std::fs::write(rootfs.join("run/secrets/kubernetes.io/token"), "x").unwrap();
        std::os::unix::fs::symlink("etc", rootfs.join(".link")).unwrap();
        let only_tar = COPY.replace("command -v cp", "false");
        for script in [COPY, &only_tar] {
            let output = run(script, root.path(), &[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let target = root.path().join("target");
            assert!(target.join("etc/.hidden").is_file() && target.join(".link").is_symlink());
            assert!(!target.join("proc").exists() && !target.join("run/secrets/kubernetes.io").exists());
            std::fs::remove_dir_all(&target).unwrap();
            std::fs::create_dir(&target).unwrap();
        }
    }
}
