//! `lastgasp mitigate`: what the agent on this node has switched off, and its undoing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use agent_core::engine::{mitigation_text, rfc3339};
use agent_core::model::{BootId, Mitigation, MitigationState};
use anyhow::Context as _;
use serde::Serialize;

use super::out::{self, Format, Output, sanitize};
use crate::config;
use crate::node::identity;
use crate::node::mitigate::{self, Ethtool, Outcome, Undone};

const EXAMPLES: &str = "\
Examples:
  lastgasp mitigate status               what is switched off on this node, and why
  lastgasp mitigate undo                 all as it was; the agent leaves it so in this boot
  kubectl -n lastgasp-agent exec ds/lastgasp-agent -- lastgasp mitigate status -o json
  kubectl -n lastgasp-agent exec POD -- lastgasp mitigate undo

The agent does this only with --mitigate gso=apply, and undoes it by itself when it stops.
Only what it switched off is switched on again, and only if nobody else did so meanwhile.
Exit code: 0 if all is as it should be, 1 if something could not be undone.";

/// Show or undo what the agent of this node does against a bug of its kernel.
///
/// Run it where the agent runs: it reads what the agent keeps in its state directory, and
/// `undo` needs CAP_NET_ADMIN, as the agent does.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what is switched off, since when and why
    Status(Where),
    /// Switch on again what the agent switched off, until the next boot
    Undo(Where),
}

#[derive(Debug, clap::Args)]
struct Where {
    /// The agent's state directory [default: /var/lib/lastgasp]
    #[arg(long, env = "LASTGASP_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// TOML file that the agent has its settings from
    #[arg(long, env = "LASTGASP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Where {
    /// As the agent finds it.
    fn dir(&self) -> anyhow::Result<PathBuf> {
        let given = config::agent::Low {
            state_dir: self.state_dir.clone(),
            ..config::agent::Low::default()
        };
        let low = config::layer(&given, self.config.as_deref(), "agent")?;
        Ok(low
            .state_dir
            .unwrap_or_else(|| config::agent::STATE_DIR.into()))
    }
}

/// How it stands, for scripts.
#[derive(Debug, Serialize)]
struct Status {
    boot: BootId,
    #[serde(skip_serializing_if = "Option::is_none")]
    mitigation: Option<Mitigation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// What a person types to do it, or to undo it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let boot = identity::boot_id()?;
    match &args.command {
        Command::Status(place) => {
            let status = Status::new(boot, mitigate::known(&place.dir()?, boot));
            print(place.output.output, &status, status.human())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Undo(place) => {
            let mut devices =
                Ethtool::open().context("cannot reach the kernel's ethtool netlink interface")?;
            let dir = place.dir()?;
            let undone = mitigate::undo(&dir, boot, &mut devices, identity::now())?;
            print(place.output.output, &undone, human(undone.as_ref()))?;
            if let Some(problem) = undone.and_then(|undone| undone.problem) {
                return Err(problem).context(
                    "not all of it is undone; the agent, if it runs, tries the rest itself",
                );
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print<T: Serialize>(format: Format, value: &T, human: String) -> anyhow::Result<()> {
    let text = match format {
        Format::Human => human,
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(value)?,
    };
    out::bytes(text.as_bytes())?;
    Ok(())
}

impl Status {
    fn new(boot: BootId, mitigation: Option<Mitigation>) -> Self {
        let commands = match &mitigation {
            Some(m) if m.state == MitigationState::Applied => m.undo_commands(),
            Some(m) => m.commands(),
            None => Vec::new(),
        };
        Self {
            boot,
            text: mitigation.as_ref().and_then(mitigation_text),
            commands,
            mitigation,
        }
    }

    fn human(&self) -> String {
        let Some((mitigation, text)) = self.mitigation.as_ref().zip(self.text.as_ref()) else {
            return "nothing is switched off, and there is no reason to\n".to_owned();
        };
        let mut out = format!("{}\n", sanitize(text));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  state   {}", mitigation.state.as_str());
        let _ = writeln!(out, "  mode    {}", mitigation.mode.as_str());
        let _ = writeln!(out, "  since   {}", rfc3339(mitigation.since));
        for device in mitigation.devices.iter().filter(|d| !d.features.is_empty()) {
            let line = format!("{}: {}", device.device, device.features.join(", "));
            let _ = writeln!(out, "  device  {}", sanitize(&line));
        }
        if mitigation.state == MitigationState::Applied {
            out.push_str("  undo    lastgasp mitigate undo\n");
        }
        out
    }
}

fn human(undone: Option<&Undone>) -> String {
    let Some(undone) = undone else {
        return "nothing was switched off in this boot\n".to_owned();
    };
    let mut out = String::new();
    for (what, outcome) in &undone.devices {
        let line = format!(
            "{} on {}: {outcome}",
            what.names().to_uppercase(),
            what.device
        );
        let _ = writeln!(out, "{}", sanitize(&line));
    }
    if undone.devices.is_empty() {
        out.push_str("nothing is switched off\n");
    }
    if undone
        .devices
        .iter()
        .all(|(_, outcome)| *outcome != Outcome::Refused)
    {
        out.push_str("it stays so until the next boot\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use agent_core::model::{MitigationCause, MitigationMode, Switched, Timestamp};

    use super::*;

    fn applied() -> Mitigation {
        Mitigation {
            action: "gso-off".into(),
            mode: MitigationMode::Apply,
            state: MitigationState::Applied,
            devices: vec![Switched {
                device: "eth0".into(),
                features: vec!["rx-gro".into(), "tx-generic-segmentation".into()],
            }],
            cause: Some(MitigationCause {
                death: Some("w01-00000001".into()),
                bug: Some("cve-2024-42281".into()),
                ..MitigationCause::default()
            }),
            since: Timestamp(1_700_000_000_000),
            problem: None,
        }
    }

    #[test]
    fn a_status_says_what_is_off_why_and_how_to_undo_it() {
        let status = Status::new(BootId([1; 16]), Some(applied()));
        assert_eq!(
            status.human(),
            "switched off: GRO, GSO on eth0, as death w01-00000001 on this kernel looks like \
             cve-2024-42281\n  state   applied\n  mode    apply\n  since   \
             2023-11-14T22:13:20.000Z\n  device  eth0: rx-gro, tx-generic-segmentation\n  undo    \
             lastgasp mitigate undo\n"
        );
        assert_eq!(status.commands, ["ethtool -K eth0 gro on gso on"]);
        let none = Status::new(BootId([1; 16]), None).human();
        assert!(none.starts_with("nothing is switched off"));
    }

    #[test]
    fn an_undo_says_what_became_of_each_device() {
        let undone = Undone {
            devices: vec![
                (applied().devices[0].clone(), Outcome::Restored),
                (applied().devices[0].clone(), Outcome::Refused),
            ],
            problem: None,
        };
        assert_eq!(
            human(Some(&undone)),
            "GRO, GSO on eth0: on again\nGRO, GSO on eth0: the kernel refused it\n"
        );
        assert!(human(None).starts_with("nothing was switched off"));
    }
}
