//! The command line: every flag, the help text made from the same list, and what can be wrong before any value is looked at.

use std::ffi::OsString;
use std::fmt::Write;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs};

use oz_worker_text::line::one_line;
use oz_worker_text::suggest::closest;

/// The flags as given. Those that may stand once are lists too: the last one counts, so that arguments which a chart or
/// a wrapper appends override the ones it wrote first. No `Debug`: the API key and variables' values are in here.
#[derive(Default, FromArgs, ArgsInfo)]
#[argh(description = "runs Oz tasks on your own machines")]
pub struct Flags {
    #[argh(option, arg_name = "PATH", description = "YAML file; flags and environment win over it")]
    pub config_file: Vec<String>,
    #[argh(
        option,
        arg_name = "NAME",
        description = "docker, direct, kubernetes or command [from the file, else docker]"
    )]
    pub backend: Vec<String>,
    #[argh(option, arg_name = "KEY", description = "the API key, but visible in process listings [env WARP_API_KEY]")]
    pub api_key: Vec<String>,
    #[argh(option, arg_name = "PATH", description = "file that holds the API key, read again at every dial")]
    pub api_key_file: Vec<String>,
    #[argh(option, arg_name = "ID", description = "this worker's name; may not begin with \"warp\" [from the file]")]
    pub worker_id: Vec<String>,
    #[argh(
        option,
        arg_name = "URL",
        hidden_help,
        description = "where to connect [wss://oz.warp.dev/api/v1/selfhosted/worker/ws]"
    )]
    pub web_socket_url: Vec<String>,
    #[argh(option, arg_name = "URL", hidden_help, description = "server for the agent [https://app.warp.dev]")]
    pub server_root_url: Vec<String>,
    #[argh(option, arg_name = "URL", hidden_help, description = "session sharing server for the agent [none]")]
    pub session_sharing_server_url: Vec<String>,
    #[argh(option, arg_name = "LEVEL", description = "debug, info, warn or error [info]")]
    pub log_level: Vec<String>,
    #[argh(option, arg_name = "FORMAT", description = "text or json [text]")]
    pub log_format: Vec<String>,
    #[argh(option, arg_name = "MODE", description = "the page at / beside /metrics: on or off [on]")]
    pub status_page: Vec<String>,
    #[argh(
        option,
        arg_name = "ADDR",
        description = "also serve /livez and /readyz at HOST:PORT, whatever is exported"
    )]
    pub health_address: Vec<String>,
    #[argh(option, arg_name = "DIR", description = "direct: run every task in this directory [a new workspace each]")]
    pub target_dir: Vec<String>,
    #[argh(switch, description = "keep containers, Jobs and workspaces [removed]")]
    pub no_cleanup: bool,
    #[argh(
        option,
        short = 'v',
        arg_name = "SPEC",
        description = "docker: mount HOST:CONTAINER[:MODE], besides the file's; repeatable"
    )]
    pub volumes: Vec<String>,
    #[argh(
        option,
        short = 'e',
        arg_name = "SPEC",
        description = "KEY=VALUE, or KEY for the host's value; over the file's; repeatable"
    )]
    pub env: Vec<String>,
    #[argh(option, arg_name = "N", description = "tasks at once [0: no limit]")]
    pub max_concurrent_tasks: Vec<String>,
    #[argh(option, arg_name = "D", description = "how long the agent stays after its task [the agent's own 45m]")]
    pub idle_on_complete: Vec<String>,
    #[argh(option, arg_name = "D", description = "on SIGTERM, let running tasks finish for this long [0s]")]
    pub drain_timeout: Vec<String>,
    #[argh(option, arg_name = "D", description = "from SIGTERM to SIGKILL when a task is stopped [10s]")]
    pub cancel_grace_period: Vec<String>,
    #[argh(switch, description = "check flags and file, say what would run, exit; connects to nothing")]
    pub check: bool,
    #[argh(switch, description = "print name, version, commit and runtime, and exit")]
    pub version: bool,
}

/// What the command line asks for.
pub enum Parsed {
    /// The flags, to be looked at further.
    Flags(Box<Flags>),
    Help,
}

/// Why a command line cannot be understood. No value is ever in here: it could be the API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// There is no such flag.
    #[error("unknown flag {flag}; {}", match .meant { Some(meant) => format!("did you mean {meant}?"), None => "--help lists them".to_owned() })]
    Unknown {
        /// As given, without its value.
        flag: String,
        /// The flag that was probably meant.
        meant: Option<String>,
    },
    /// The flag stands last, or another flag stands where its value should.
    #[error("{flag} needs a value: {flag} {value}")]
    NoValue {
        flag: String,
        /// The value's name in the help.
        value: String,
    },
    /// A switch was given something other than `true` or `false`.
    #[error("{0} is a switch: it takes no value, or =true or =false")]
    Switch(String),
    /// A word that is not a flag.
    #[error("argument {position}{} is not a flag; the worker takes nothing but flags", match .after { Some(after) => format!(", after {after},"), None => String::new() })]
    Stray {
        /// Which argument, from 1.
        position: usize,
        /// The flag before it.
        after: Option<String>,
    },
    /// Not UTF-8.
    #[error("argument {0} is not UTF-8 text")]
    NotText(usize),
    /// Anything else. What argh says of it may repeat a value.
    #[error("the arguments cannot be understood; --help lists the flags")]
    Other,
}

/// Reads the command line, without the program's own name.
///
/// # Errors
/// The first thing that cannot be understood.
pub fn parse(arguments: Vec<OsString>) -> Result<Parsed, FlagError> {
    let Some(plain) = normalized(arguments)? else { return Ok(Parsed::Help) };
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    // After normalizing there is nothing left that could be refused.
    let flags = Flags::from_args(&["oz-agent-worker"], &plain).map_err(|_| FlagError::Other)?;
    Ok(Parsed::Flags(Box::new(flags)))
}

/// The last of a flag's values, unless blank: an unset shell variable is as good as no flag.
pub fn last(values: &[String]) -> Option<&str> {
    values.last().map(|value| value.trim()).filter(|value| !value.is_empty())
}

/// The arguments as argh knows them: `--flag=value` and `-eKEY=VALUE` split in two, switches without a value. `None` when
/// help is asked for.
fn normalized(arguments: Vec<OsString>) -> Result<Option<Vec<String>>, FlagError> {
    let known = known_flags();
    let mut plain = Vec::with_capacity(arguments.len());
    let mut after = None;
    let mut arguments = arguments.into_iter().zip(1..).peekable();
    while let Some((argument, position)) = arguments.next() {
        let argument = argument.into_string().map_err(|_| FlagError::NotText(position))?;
        if matches!(argument.as_str(), "--help" | "-h") {
            return Ok(None);
        }
        if !argument.starts_with('-') || argument == "-" {
            return Err(FlagError::Stray { position, after });
        }
        let (name, attached) = split(&argument);
        let Some(flag) = known.iter().find(|flag| names(flag, name)) else {
            let meant = closest(name, known.iter().map(|flag| flag.long).chain(["--help"])).map(str::to_owned);
            return Err(FlagError::Unknown { flag: shown(name), meant });
        };
        after = Some(name.to_owned());
        match (&flag.kind, attached) {
            (FlagInfoKind::Switch, None | Some("true")) => plain.push(flag.long.to_owned()),
            (FlagInfoKind::Switch, Some("false")) => {}
            (FlagInfoKind::Switch, Some(_)) => return Err(FlagError::Switch(name.to_owned())),
            (FlagInfoKind::Option { .. }, Some(value)) => plain.extend([flag.long.to_owned(), value.to_owned()]),
            (FlagInfoKind::Option { arg_name }, None) => {
                let missing = || FlagError::NoValue { flag: name.to_owned(), value: (*arg_name).to_owned() };
                let (value, position) = arguments.next().ok_or_else(missing)?;
                let value = value.into_string().map_err(|_| FlagError::NotText(position))?;
                if value.starts_with('-') && known.iter().any(|flag| names(flag, split(&value).0)) {
                    return Err(missing());
                }
                plain.extend([flag.long.to_owned(), value]);
            }
        }
    }
    Ok(Some(plain))
}

/// A flag's name and the value attached to it: `--flag=value`, `-e=value`, `-evalue`.
fn split(argument: &str) -> (&str, Option<&str>) {
    if argument.starts_with("--") {
        return argument.split_once('=').map_or((argument, None), |(name, value)| (name, Some(value)));
    }
    match argument.get(..2).zip(argument.get(2..)) {
        // Only the two short flags are split: `-worker-id` is a misspelt long one, and its value may be a secret.
        Some((name @ ("-e" | "-v"), value)) if !value.is_empty() => {
            (name, Some(value.strip_prefix('=').unwrap_or(value)))
        }
        _ => (argument.split('=').next().unwrap_or(argument), None),
    }
}

fn names(flag: &FlagInfo, name: &str) -> bool {
    flag.long == name
        || flag.short.is_some_and(|short| name.strip_prefix('-').is_some_and(|rest| rest.chars().eq([short])))
}

/// A misspelt flag as it can be repeated: on one line and not endless.
fn shown(name: &str) -> String {
    one_line(name).chars().take(40).collect()
}

fn known_flags() -> Vec<&'static FlagInfo<'static>> {
    Flags::get_args_info().flags.iter().filter(|flag| flag.long != "--help").collect()
}

/// The flags of the help text, in its order.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Connection", &["--worker-id", "--api-key-file", "--api-key", "--config-file"]),
    ("Tasks", &["--max-concurrent-tasks", "--idle-on-complete", "--drain-timeout", "--cancel-grace-period"]),
    ("Backend", &["--backend", "--target-dir", "--env", "--volumes", "--no-cleanup"]),
    ("Logs and checks", &["--log-level", "--log-format", "--status-page", "--health-address", "--check", "--version"]),
];

/// The text of `--help`: one screen.
pub fn help() -> String {
    let known = known_flags();
    let mut text = String::from(
        "oz-agent-worker runs Oz tasks on your own machines.\n\n\
         Usage: oz-agent-worker --worker-id ID [--config-file PATH] [flags]\n",
    );
    for (title, flags) in GROUPS {
        let _ = writeln!(text, "\n{title}:");
        for flag in flags.iter().filter_map(|name| known.iter().find(|flag| flag.long == *name)) {
            let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
            let value = match flag.kind {
                FlagInfoKind::Switch => "",
                FlagInfoKind::Option { arg_name } => arg_name,
            };
            let name = format!("{short}{} {value}", flag.long);
            let _ = writeln!(text, "  {name:<29} {}", flag.description);
        }
    }
    let _ = writeln!(text, "  {:<29} print this, and exit", "-h, --help");
    text.push_str(
        "\nDurations (D) are written 1h30m, 45s or 0s. What stands in [brackets] holds without the flag.\n\
         \nEnvironment:\n  \
           WARP_API_KEY                  the API key\n  \
           OTEL_METRICS_EXPORTER         prometheus, otlp, console or none [otlp]\n  \
           HTTPS_PROXY, NO_PROXY         how to reach the server\n  \
           SSL_CERT_FILE, SSL_CERT_DIR   certificates to trust\n",
    );
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        match parse(arguments.iter().map(OsString::from).collect()) {
            Ok(Parsed::Flags(flags)) => *flags,
            Ok(Parsed::Help) => panic!("help"),
            Err(error) => panic!("{error}"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        match parse(arguments.iter().map(OsString::from).collect()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted {arguments:?}"),
        }
    }

    #[test]
    fn every_flag_takes_its_value_apart_or_attached() {
        for flag in known_flags() {
            let FlagInfoKind::Option { .. } = flag.kind else { continue };
            for arguments in [vec![flag.long.to_owned(), "-x=y".to_owned()], vec![format!("{}=-x=y", flag.long)]] {
                let plain = normalized(arguments.into_iter().map(OsString::from).collect()).unwrap().unwrap();
                assert_eq!(plain, [flag.long, "-x=y"]);
            }
        }
    }

    #[test]
    fn the_last_of_several_values_counts() {
        let flags = flags(&["--log-level", "info", "--backend=direct", "--log-level=debug"]);
        assert_eq!((last(&flags.log_level), last(&flags.backend)), (Some("debug"), Some("direct")));
        assert_eq!(last(&flags.worker_id), None);
        assert_eq!(last(&[" ".to_owned()]), None);
    }

    #[test]
    fn short_flags_repeat_in_every_spelling() {
        let flags = flags(&["-e", "A=1", "-eB=2", "-e=C=3", "--env", "D", "--env=E=-5", "-v/a:/b", "-v", "/c:/d"]);
        assert_eq!(flags.env, ["A=1", "B=2", "C=3", "D", "E=-5"]);
        assert_eq!(flags.volumes, ["/a:/b", "/c:/d"]);
    }

    #[test]
    fn a_switch_may_be_switched() {
        assert!(flags(&["--no-cleanup", "--no-cleanup", "--check=true"]).no_cleanup);
        assert!(!flags(&["--no-cleanup=false"]).no_cleanup);
        assert_eq!(error(&["--check=maybe"]), "--check is a switch: it takes no value, or =true or =false");
    }

    #[test]
    fn what_cannot_be_understood_is_one_line_that_says_what_to_do() {
        for (arguments, line) in [
            (&["--worker-ids", "x"][..], "unknown flag --worker-ids; did you mean --worker-id?"),
            (&["--workerid=x"], "unknown flag --workerid; did you mean --worker-id?"),
            (&["-worker-id=x"], "unknown flag -worker-id; did you mean --worker-id?"),
            (&["--hlep"], "unknown flag --hlep; did you mean --help?"),
            (&["--colour"], "unknown flag --colour; --help lists them"),
            (&["-x"], "unknown flag -x; --help lists them"),
            (&["--"], "unknown flag --; --help lists them"),
            (&["--worker-id"], "--worker-id needs a value: --worker-id ID"),
            (&["--worker-id", "--check"], "--worker-id needs a value: --worker-id ID"),
            (&["-e"], "-e needs a value: -e SPEC"),
            (&["-e", "--backend=direct"], "-e needs a value: -e SPEC"),
            (&["run"], "argument 1 is not a flag; the worker takes nothing but flags"),
            (
                &["--api-key", "wk-a", "wk-b"],
                "argument 3, after --api-key, is not a flag; the worker takes nothing but flags",
            ),
        ] {
            assert_eq!(error(arguments), line, "{arguments:?}");
        }
    }

    #[test]
    fn no_error_repeats_a_value() {
        for arguments in [
            &["-api-key=canary"][..],
            &["--api-keys=canary"],
            &["--api-key", "x", "canary"],
            &["--check=canary"],
            &["canary"],
        ] {
            assert!(!error(arguments).contains("canary"), "{}", error(arguments));
        }
    }

    #[test]
    fn an_argument_that_is_not_text_is_named_by_its_place() {
        use std::os::unix::ffi::OsStringExt;
        let Err(error) = parse(vec!["--worker-id".into(), OsString::from_vec(vec![0xff])]) else { panic!("accepted") };
        assert_eq!(error.to_string(), "argument 2 is not UTF-8 text");
    }

    #[test]
    fn help_is_asked_for_anywhere() {
        for arguments in [&["--help"][..], &["-h"], &["--check", "--help"]] {
            assert!(matches!(parse(arguments.iter().map(OsString::from).collect()), Ok(Parsed::Help)));
        }
    }

    #[test]
    fn help_fits_one_screen_and_shows_every_flag_that_is_not_hidden() {
        let help = help();
        let lines = help.lines().count();
        assert!((24..=45).contains(&lines), "{lines} lines");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for flag in known_flags() {
            assert_eq!(help.contains(&format!("{} ", flag.long)), !flag.hidden, "{}", flag.long);
        }
        let hidden: Vec<_> = known_flags().iter().filter(|flag| flag.hidden).map(|flag| flag.long).collect();
        assert_eq!(hidden, ["--web-socket-url", "--server-root-url", "--session-sharing-server-url"]);
    }
}
