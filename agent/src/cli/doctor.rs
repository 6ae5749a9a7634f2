//! `lastgasp doctor`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::{known, out};
use crate::config::agent::CONFIGFS;
use crate::kernel::attach::{self, Status};
use crate::kernel::caps::{self, Capability};
use crate::kernel::packet::PacketSocket;
use crate::kernel::sched;
use crate::node::mitigate::Ethtool;
use crate::node::netconsole;
use crate::probes;

/// Say what this kernel allows: which probe attaches how, and what to change.
///
/// Attaches every probe as the agent would, reports, and detaches. Nothing is
/// sent and nothing is held. Exit code 0: everything attaches; 4: something is
/// missing.
///
/// Example: lastgasp doctor -o json | jq '.roles[] | select(.attached | not)'
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print the answer.
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// Where configfs is mounted, for netconsole.
    #[arg(long, env = "LASTGASP_CONFIGFS", value_name = "DIR", default_value = CONFIGFS)]
    configfs: PathBuf,
    /// Run once and exit, as it always does; for scripts written for agents
    /// that have such a mode.
    #[arg(long, hide = true)]
    once: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Serialize)]
struct Finding {
    kernel: String,
    /// Set if nothing can be attached at all.
    error: Option<String>,
    roles: Vec<RoleFinding>,
    needs: Vec<Need>,
    /// Ways out that are the kernel's own: nothing fails without them.
    channels: Vec<Extra>,
    /// What the agent can do against bugs of the kernel, if asked to.
    mitigations: Vec<Extra>,
}

/// Something without which nothing fails.
#[derive(Debug, Serialize)]
struct Extra {
    name: &'static str,
    works: bool,
    /// How it stands, and what to change.
    status: String,
}

#[derive(Debug, Serialize)]
struct RoleFinding {
    attached: bool,
    #[serde(flatten)]
    status: Status,
}

/// Something beside probes that the crash path wants.
#[derive(Debug, Serialize)]
struct Need {
    name: &'static str,
    have: bool,
    /// What is worse without it, and how to get it.
    without: &'static str,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let finding = look(&args.configfs);
    let whole = finding.error.is_none()
        && finding.roles.iter().all(|r| r.attached)
        && finding.needs.iter().all(|n| n.have);
    match args.output {
        Output::Text => out::bytes(text(&finding).as_bytes())?,
        Output::Json => out::bytes(out::json(&finding)?.as_bytes())?,
    }
    Ok(ExitCode::from(if whole { 0 } else { 4 }))
}

fn look(configfs: &Path) -> Finding {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim().to_owned();
    let cpus = sched::two_of(&sched::allowed_cpus().unwrap_or_default());
    let mut needs = vec![
        Need {
            name: "two CPUs",
            have: cpus.len() > 1,
            without: "nobody can send while the one CPU dies; only what the next boot finds is left",
        },
        Need {
            name: "CAP_BPF and CAP_PERFMON",
            have: caps::have(Capability::SysAdmin)
                || caps::have(Capability::Bpf) && caps::have(Capability::Perfmon),
            without: "no probe attaches; add BPF and PERFMON to the container's capabilities",
        },
        Need {
            name: "CAP_NET_RAW",
            have: PacketSocket::open().is_ok(),
            without: "frames go by UDP only, which a death inside the network stack stops; add NET_RAW",
        },
        Need {
            name: "CAP_SYS_NICE",
            have: caps::have(Capability::SysNice),
            without: "a busy machine may not run the drain threads in time; add SYS_NICE",
        },
        Need {
            name: "CAP_IPC_LOCK",
            have: caps::have(Capability::IpcLock),
            without: "the drain threads may have been swapped out; add IPC_LOCK",
        },
    ];
    let channels = vec![netconsole(configfs)];
    let mitigations = vec![gso(&kernel)];
    match attach::attach(&probes::roles(), false) {
        Err(error) => Finding {
            kernel,
            error: Some(format!("{:#}", anyhow::Error::from(error))),
            roles: Vec::new(),
            needs,
            channels,
            mitigations,
        },
        Ok((attached, _memory)) => {
            needs.push(Need {
                name: "kernel addresses (CAP_SYSLOG)",
                have: attached.knows_context,
                without: "a death does not say whether it was in an interrupt; add SYSLOG",
            });
            let roles = attached.statuses.iter().map(|status| RoleFinding {
                attached: status.attached().is_some(),
                status: status.clone(),
            });
            Finding {
                kernel,
                error: None,
                roles: roles.collect(),
                needs,
                channels,
                mitigations,
            }
        }
    }
}

/// Whether the agent could switch off what has buggy kernels take packets apart.
fn gso(release: &str) -> Extra {
    let can_ask = Ethtool::open();
    let works = can_ask.is_ok() && caps::have(Capability::NetAdmin);
    let mut status = match can_ask {
        Err(error) => format!("this kernel's ethtool netlink interface cannot be used: {error}"),
        Ok(_) if works => "the agent does it if asked to (--mitigate gso=apply)".to_owned(),
        Ok(_) => "the agent can only say what to do (--mitigate gso=suggest); to do it takes \
                  CAP_NET_ADMIN: add NET_ADMIN (on Kubernetes deploy/mitigate)"
            .to_owned(),
    };
    if !known::may_have_gso_bug(release, None) {
        status.push_str("; this kernel is known to have none of the bugs that it is for");
    }
    Extra {
        name: "GSO and GRO off",
        works,
        status,
    }
}

fn netconsole(configfs: &Path) -> Extra {
    let found = netconsole::find(configfs);
    let status = match (&found, netconsole::muted()) {
        (Err(missing), _) => missing.to_string(),
        (Ok(_), Some(why)) => why.to_owned(),
        (Ok(_), None) => "the agent sets it up if asked to (--netconsole auto)".to_owned(),
    };
    Extra {
        name: "netconsole",
        works: found.is_ok(),
        status,
    }
}

fn text(finding: &Finding) -> String {
    let mut text = format!("kernel {}\n\n", out::sanitize(&finding.kernel));
    if let Some(error) = &finding.error {
        let _ = writeln!(text, "nothing attaches: {}\n", out::sanitize(error));
    }
    for role in &finding.roles {
        let sign = if role.attached { "yes" } else { "NO " };
        let _ = writeln!(text, "{sign}  {}", role.status.role);
        for attempt in &role.status.attempts {
            let result = attempt.refused.as_deref().unwrap_or("attached");
            let _ = writeln!(
                text,
                "       {} {}: {}",
                attempt.how,
                attempt.target,
                out::sanitize(result)
            );
        }
        if !role.attached {
            let _ = writeln!(text, "     without it: {}", role.status.without);
        }
    }
    text.push('\n');
    for need in &finding.needs {
        let sign = if need.have { "yes" } else { "NO " };
        let _ = writeln!(text, "{sign}  {}", need.name);
        if !need.have {
            let _ = writeln!(text, "     without it: {}", need.without);
        }
    }
    text.push('\n');
    for extra in finding.channels.iter().chain(&finding.mitigations) {
        let sign = if extra.works { "yes" } else { "no " };
        let status = out::sanitize(&extra.status);
        let _ = writeln!(text, "{sign}  {}: {status}", extra.name);
    }
    let refused = |r: &RoleFinding| {
        r.status.attempts.iter().any(|a| {
            a.refused
                .as_deref()
                .is_some_and(|why| why.contains("not permitted"))
        })
    };
    if finding.roles.iter().any(|r| !r.attached && refused(r)) {
        text.push_str(
            "\nThis kernel refuses fentry and kprobes (\"not permitted\"). Usual causes: lockdown\n\
             in confidentiality mode (/sys/kernel/security/lockdown), a missing CAP_PERFMON, or a\n\
             kernel built without CONFIG_KPROBES or CONFIG_FTRACE. Until that changes netconsole\n\
             and the next boot's evidence are what is left of a crash.\n",
        );
    }
    text
}
