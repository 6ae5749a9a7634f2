//! PID 1 of a lab machine.
//!
//! Sets the machine up, then does what the host says over a virtio port, one
//! line a command, one line an answer; the console stays free for the kernel.
//!
//! | command | does |
//! |---|---|
//! | `write PATH TEXT` | writes a file or a sysctl |
//! | `mkdir PATH` | makes a directory and its parents |
//! | `run PROGRAM ARGUMENTS…` | starts a program in the background |
//! | `wait PATH MS` | waits until the file exists |
//! | `stop PROGRAM MS` | SIGTERM to what `run` started, and waits for its end |
//! | `die WAY US` | dies that way after this many microseconds |
//! | `busy CPU` | keeps a CPU busy from now on |
//! | `read PATH` | answers with the first line of a file |

mod machine;
mod ways;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

fn main() {
    let error = match serve() {
        Ok(()) => "the host closed the port".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    eprintln!("guest: {error}");
    // PID 1 must not end by itself: that would be a panic that nobody asked for.
    machine::power_off();
}

fn serve() -> Result<()> {
    machine::set_up()?;
    let mut answers = machine::port("lastgasp.ctl").context("no control port")?;
    let commands = BufReader::new(answers.try_clone()?);
    writeln!(answers, "ok up")?;
    let mut children = BTreeMap::new();
    for line in commands.lines() {
        let line = line?;
        match obey(&line, &mut children) {
            Ok(answer) => writeln!(answers, "ok {answer}")?,
            Err(error) => writeln!(answers, "error {line:?}: {error:#}")?,
        }
    }
    Ok(())
}

fn obey(line: &str, children: &mut BTreeMap<String, Child>) -> Result<String> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    match command {
        "write" => fs::write(first, second).with_context(|| format!("cannot write {first}"))?,
        "mkdir" => fs::create_dir_all(first)?,
        "read" => {
            let text = fs::read_to_string(first)?;
            return Ok(text.lines().next().unwrap_or_default().to_owned());
        }
        "run" => {
            let log = File::create("/run/agent.log")?;
            let child = Command::new(first)
                .args(second.split(' ').filter(|a| !a.is_empty()))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot run {first}"))?;
            children.insert(first.to_owned(), child);
        }
        "wait" => wait(Path::new(first), Duration::from_millis(second.parse()?))?,
        "stop" => {
            let child = children.get_mut(first).context("was not started")?;
            machine::terminate(child.id())?;
            let deadline = Instant::now() + Duration::from_millis(second.parse()?);
            while child.try_wait()?.is_none() {
                if Instant::now() > deadline {
                    bail!("did not end in time");
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        "busy" => {
            let cpu = first.parse()?;
            std::thread::spawn(move || machine::burn(cpu));
        }
        "die" => {
            let way = ways::named(first)?;
            let delay = Duration::from_micros(second.parse()?);
            // The answer leaves before the machine does.
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                if let Err(error) = (way.die)() {
                    eprintln!("guest: cannot die by {}: {error:#}", way.name);
                }
            });
        }
        _ => bail!("no such command"),
    }
    Ok(String::new())
}

fn wait(path: &Path, at_most: Duration) -> Result<()> {
    let deadline = Instant::now() + at_most;
    while !path.exists() {
        if Instant::now() > deadline {
            let log = fs::read_to_string("/run/agent.log").unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(5).collect();
            bail!(
                "{} did not come; the log ends: {}",
                path.display(),
                end.join(" | ")
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
