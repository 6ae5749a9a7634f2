//! Running other programs: with a clean environment, visible progress, and
//! words about what failed and what to do by hand.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of the work tree.
pub(crate) fn root() -> &'static Path {
    // This crate lies directly below it.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where downloads and built tools are kept between runs and checkouts.
pub(crate) fn cache() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = var("LASTGASP_CACHE") {
        return Ok(dir.into());
    }
    if let Some(dir) = var("XDG_CACHE_HOME") {
        return Ok(Path::new(&dir).join("lastgasp"));
    }
    let home = var("HOME").context("HOME is not set; set LASTGASP_CACHE to a directory to use")?;
    Ok(Path::new(&home).join(".cache/lastgasp"))
}

/// `cargo` in `dir`, with that directory's own toolchain pin and flags.
///
/// `cargo xtask` is itself run by a cargo, which hands its toolchain, its
/// package and its library path down; a nested cargo would obey them instead
/// of the pin.
pub(crate) fn cargo(dir: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(dir);
    for (name, _) in std::env::vars_os() {
        if inherited_from_cargo(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn inherited_from_cargo(name: &OsStr) -> bool {
    const KEEP: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let Some(name) = name.to_str() else {
        return false;
    };
    match name {
        "RUSTUP_TOOLCHAIN"
        | "RUSTUP_TOOLCHAIN_SOURCE"
        | "LD_LIBRARY_PATH"
        | "RUSTC"
        | "RUSTDOC"
        | "RUSTFLAGS"
        | "RUSTC_WRAPPER"
        | "RUSTC_WORKSPACE_WRAPPER"
        | "RUSTC_LINKER"
        | "RUST_RECURSION_COUNT" => true,
        "CARGO_TARGET_DIR" | "CARGO_INCREMENTAL" | "CARGO_BUILD_JOBS" => false,
        _ => name.starts_with("CARGO") && !KEEP.iter().any(|keep| name.starts_with(keep)),
    }
}

/// The directory that the workspace's cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Says what is being done now.
pub(crate) fn say(what: &str) {
    eprintln!("==> {what}");
}

/// A length of time for people: `0.8 s`, `12 s`, `3 min 5 s`.
pub(crate) fn took(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// Runs a program whose own output is its progress.
pub(crate) fn loudly(what: &str, command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{what} failed ({status}): {}", line(command));
    }
    Ok(())
}

/// Runs a program and gives what it wrote to standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program whose output matters only if it fails, and shows the time
/// that went by once it takes longer than two seconds.
pub(crate) fn quietly(what: &str, command: &mut Command) -> Result<()> {
    let log_path = cache()?.join("last-step.log");
    let log =
        File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", line(command)))?;
    let mut clock = Clock::new(what);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        clock.tick(start.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    };
    clock.done(start.elapsed());
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read(&log_path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let from = text.lines().count().saturating_sub(15);
    for text in text.lines().skip(from) {
        eprintln!("    {text}");
    }
    bail!(
        "{what} failed ({status}); the whole output is in {}; by hand: {}",
        log_path.display(),
        line(command)
    )
}

/// Shows on standard error how long a step has been running.
struct Clock<'a> {
    what: &'a str,
    terminal: bool,
    shown: Duration,
}

impl<'a> Clock<'a> {
    fn new(what: &'a str) -> Self {
        Self {
            what,
            terminal: std::io::stderr().is_terminal(),
            shown: Duration::ZERO,
        }
    }

    fn tick(&mut self, elapsed: Duration) {
        // A log file gets a line now and then, a terminal one line that counts.
        let pause = if self.terminal { 1 } else { 15 };
        let first = self.shown.is_zero() && elapsed > Duration::from_secs(2);
        if first || (!self.shown.is_zero() && elapsed.saturating_sub(self.shown).as_secs() >= pause)
        {
            self.shown = elapsed;
            let (start, end) = if self.terminal {
                ("\r", "")
            } else {
                ("", "\n")
            };
            eprint!("{start}    {} ... {}{end}", self.what, took(elapsed));
            // Progress that cannot be shown is no reason to stop.
            let _ = std::io::stderr().flush();
        }
    }

    fn done(&self, elapsed: Duration) {
        let start = if self.terminal && !self.shown.is_zero() {
            "\r"
        } else {
            ""
        };
        eprintln!("{start}    {}: {}", self.what, took(elapsed));
    }
}

/// A command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut text = String::new();
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        if !text.is_empty() {
            text.push(' ');
        }
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains([' ', '"', '$', '*', '\'']) {
            text.push('\'');
            text.push_str(&word.replace('\'', r"'\''"));
            text.push('\'');
        } else {
            text.push_str(&word);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_outer_cargo_hands_down_is_dropped_and_what_the_user_set_is_kept() {
        for name in [
            "CARGO",
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
            "CARGO_ENCODED_RUSTFLAGS",
        ] {
            assert!(inherited_from_cargo(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_TERM_COLOR",
            "CARGO_TARGET_DIR",
            "RUSTUP_HOME",
            "PATH",
        ] {
            assert!(!inherited_from_cargo(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn times_are_short() {
        assert_eq!(took(Duration::from_millis(840)), "0.8 s");
        assert_eq!(took(Duration::from_secs(12)), "12 s");
        assert_eq!(took(Duration::from_secs(185)), "3 min 5 s");
    }

    #[test]
    fn a_command_line_can_be_pasted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo it's"]);
        assert_eq!(line(&command), r"sh -c 'echo it'\''s'");
    }

    #[test]
    fn a_failing_program_is_named_with_its_arguments() {
        let error =
            loudly("the check", Command::new("false").arg("--really")).expect_err("false fails");
        assert!(error.to_string().contains("false --really"), "{error}");
    }
}
