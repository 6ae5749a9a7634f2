//! Settings of `lastgasp agent` and `lastgasp doctor`.

use std::path::PathBuf;
use std::time::Duration;

use agent_core::model::MitigationMode;
use serde::{Deserialize, Serialize};

use super::{Error, in_range};
use crate::gasp::drain::{MAX_COLLECTORS, Pace};
use crate::telemetry::log::Format;

/// As given: flags, environment, the section `[agent]` of the file.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Low {
    /// Where the annotator listens, HOST:PORT; up to three times.
    #[arg(
        long,
        env = "LASTGASP_COLLECTOR",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub collector: Option<Vec<String>>,
    /// File with the key shared with the annotator.
    #[arg(long, env = "LASTGASP_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// This node's name in the cluster [default: the host name].
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// The Node object's uid, if known.
    #[arg(long, env = "NODE_UID")]
    pub node_uid: Option<String>,
    /// Longest that one death is held for the words to get out, in
    /// milliseconds, 0 to 2000; 0 never holds [default: 50].
    #[arg(long, env = "LASTGASP_HOLD_MAX_MS", value_name = "MS")]
    pub hold_max_ms: Option<u64>,
    /// Between two looks for a death while all is well, in milliseconds, 1 to
    /// 100 [default: 10].
    #[arg(long, env = "LASTGASP_POLL_REST_MS", value_name = "MS")]
    pub poll_rest_ms: Option<u64>,
    /// The same once a death is declared, in microseconds, 50 to 10000
    /// [default: 500].
    #[arg(long, env = "LASTGASP_POLL_DYING_US", value_name = "US")]
    pub poll_dying_us: Option<u64>,
    /// Real-time priority of the drain threads, 1 to 99 [default: 90].
    #[arg(long, env = "LASTGASP_PRIORITY")]
    pub priority: Option<u8>,
    /// The two CPUs of the drain threads [default: the first and the last].
    #[arg(
        long,
        env = "LASTGASP_CPUS",
        value_delimiter = ',',
        value_name = "CPU,CPU"
    )]
    pub cpus: Option<Vec<u32>>,
    /// Log lines sent from before a death, 0 to 1000 [default: 64].
    #[arg(long, env = "LASTGASP_HISTORY", value_name = "LINES")]
    pub history: Option<u64>,
    /// An oops after which nothing more happens for this long was survived, in
    /// milliseconds, 500 to 60000 [default: 3000].
    #[arg(long, env = "LASTGASP_SURVIVED_MS", value_name = "MS")]
    pub survived_ms: Option<u64>,
    /// Most that looking at packets before the kernel takes them apart (`skb_segment`) may
    /// cost, in percent of one CPU, 0 to 100: above it for ten seconds, the probe is taken
    /// away until the agent starts again, with 0 at once [default: 2].
    #[arg(long, env = "LASTGASP_PREDICT_COST_MAX", value_name = "PERCENT")]
    pub predict_cost_max: Option<u32>,
    /// What to do where this kernel is known or seen to die of packets that GRO and GSO
    /// make: `gso=observe` logs it, `gso=suggest` (or `gso`) says which commands help,
    /// `gso=apply` switches GRO and GSO off by itself, keeps what was before in
    /// --state-dir, and undoes it when it stops. `apply` needs CAP_NET_ADMIN, and keeps it
    /// in one thread; `lastgasp mitigate` shows and undoes it [default: off].
    #[arg(
        long,
        env = "LASTGASP_MITIGATE",
        value_name = "gso=observe|suggest|apply"
    )]
    pub mitigate: Option<String>,
    /// Send by UDP only, not below it.
    #[arg(long, env = "LASTGASP_UDP_ONLY", num_args = 0..=1, default_missing_value = "true")]
    pub udp_only: Option<bool>,
    /// Have the kernel's own netconsole send its log to the collectors too: what
    /// it says proves nothing, but some ends only it sees. `auto` sets it up
    /// where the module is loaded; with several CPUs panics were seen to hang with it
    /// [default: off].
    #[arg(long, env = "LASTGASP_NETCONSOLE", value_name = "auto|off")]
    pub netconsole: Option<Netconsole>,
    /// The collectors' port for netconsole [default: 6666].
    #[arg(long, env = "LASTGASP_NETCONSOLE_PORT", value_name = "PORT")]
    pub netconsole_port: Option<u16>,
    /// Where configfs is mounted, for netconsole [default: /sys/kernel/config].
    #[arg(long, env = "LASTGASP_CONFIGFS", value_name = "DIR")]
    pub configfs: Option<PathBuf>,
    /// Keep all capabilities after attaching.
    #[arg(long, env = "LASTGASP_KEEP_CAPABILITIES", num_args = 0..=1, default_missing_value = "true")]
    pub keep_capabilities: Option<bool>,
    /// Where the kubelet keeps the logs of pods [default: /var/log/pods].
    #[arg(long, env = "LASTGASP_POD_LOGS", value_name = "DIR")]
    pub pod_logs: Option<PathBuf>,
    /// Where one boot leaves word for the next on how it ended
    /// [default: /var/lib/lastgasp].
    #[arg(long, env = "LASTGASP_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the kernel shows what it kept of an earlier boot's end, or `off`
    /// [default: /sys/fs/pstore].
    #[arg(long, env = "LASTGASP_PSTORE_DIR", value_name = "DIR")]
    pub pstore_dir: Option<PathBuf>,
    /// Where systemd-pstore moves that to, or `off`
    /// [default: /var/lib/systemd/pstore].
    #[arg(long, env = "LASTGASP_ARCHIVE_DIR", value_name = "DIR")]
    pub archive_dir: Option<PathBuf>,
    /// Where crash kernels save (kdump), or `off`; more than one by commas
    /// [default: /var/crash].
    #[arg(
        long,
        env = "LASTGASP_CRASH_DIR",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub crash_dir: Option<Vec<PathBuf>>,
    /// Delete records from pstore once an annotator has them on its disk. Its
    /// place is small, and a full one keeps no new record.
    #[arg(long, env = "LASTGASP_PSTORE_DELETE", num_args = 0..=1, default_missing_value = "true")]
    pub pstore_delete: Option<bool>,
    /// A file that is made once everything is attached and said hello, and goes with the agent.
    #[arg(long, env = "LASTGASP_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Show the eBPF programs' own diagnostics in the log.
    #[arg(long, env = "LASTGASP_EBPF_LOG", num_args = 0..=1, default_missing_value = "true")]
    pub ebpf_log: Option<bool>,
    /// How log lines look.
    #[arg(long, env = "LASTGASP_LOG_FORMAT")]
    pub log_format: Option<Format>,
}

/// Where to look for what earlier boots left.
#[derive(Clone, Debug)]
pub struct Leftovers {
    /// Where pstore is mounted; `None` is not to look.
    pub pstore_dir: Option<PathBuf>,
    /// Where systemd-pstore moves its records.
    pub archive_dir: Option<PathBuf>,
    /// Where crash kernels save.
    pub crash_dirs: Vec<PathBuf>,
    /// Delete from pstore what an annotator has.
    pub pstore_delete: bool,
}

/// Whether netconsole is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Netconsole {
    /// Where the kernel has it.
    Auto,
    /// Never.
    #[default]
    Off,
}

/// Where configfs is, unless configured.
pub const CONFIGFS: &str = "/sys/kernel/config";

/// What outlives the boot, unless configured.
pub const STATE_DIR: &str = "/var/lib/lastgasp";

/// Checked and typed.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Collectors as given; resolved when sockets are opened.
    pub collectors: Vec<String>,
    /// The key's file.
    pub key_file: PathBuf,
    /// The node's name, if given.
    pub node_name: Option<String>,
    /// The node's uid, if given.
    pub node_uid: Option<[u8; 16]>,
    /// How the drain threads behave.
    pub pace: Pace,
    /// Their real-time priority.
    pub priority: u8,
    /// Their CPUs, if given.
    pub cpus: Option<Vec<u32>>,
    /// Most that looking at packets may cost, in percent of one CPU.
    pub predict_cost_max: u32,
    /// How far to go against packets that this kernel dies of; `None`: do not even look.
    pub mitigate: Option<MitigationMode>,
    /// No AF_PACKET.
    pub udp_only: bool,
    /// Whether netconsole is set up.
    pub netconsole: Netconsole,
    /// The collectors' port for it.
    pub netconsole_port: u16,
    /// Where configfs is.
    pub configfs: PathBuf,
    /// Keep capabilities.
    pub keep_capabilities: bool,
    /// The kubelet's directory.
    pub pod_logs: PathBuf,
    /// Outlives the boot.
    pub state_dir: PathBuf,
    /// What earlier boots left.
    pub leftovers: Leftovers,
    /// Made when ready.
    pub ready_file: Option<PathBuf>,
    /// aya-log on.
    pub ebpf_log: bool,
}

impl Low {
    /// Checks every value.
    pub fn check(self) -> Result<Agent, Error> {
        let missing = |name, expected: &str| Error::Range {
            name,
            value: "not set".to_owned(),
            expected: expected.to_owned(),
        };
        let collectors = self.collector.unwrap_or_default();
        if collectors.is_empty() {
            return Err(missing(
                "collector",
                "HOST:PORT of an annotator, as in --collector 10.0.0.5:9618",
            ));
        }
        in_range("number of collectors", collectors.len(), 1..=MAX_COLLECTORS)?;
        let key_file = self.key_file.ok_or_else(|| {
            missing(
                "key-file",
                "the file with the key that the annotator has too (--key-file FILE)",
            )
        })?;
        let node_uid = match self.node_uid.filter(|uid| !uid.is_empty()) {
            None => None,
            // A uid has the form of a boot id: RFC 9562 text.
            Some(text) => Some(agent_core::model::BootId::parse(&text).map(|b| b.0).ok_or(
                Error::Range {
                    name: "node-uid",
                    value: text,
                    expected: "a UUID".to_owned(),
                },
            )?),
        };
        if let Some(cpus) = &self.cpus {
            in_range("number of cpus", cpus.len(), 1..=2)?;
        }
        let millis = Duration::from_millis;
        Ok(Agent {
            collectors,
            key_file,
            node_name: self.node_name.filter(|name| !name.is_empty()),
            node_uid,
            pace: Pace {
                hold_max: millis(in_range(
                    "hold-max-ms",
                    self.hold_max_ms.unwrap_or(50),
                    0..=2000,
                )?),
                rest: millis(in_range(
                    "poll-rest-ms",
                    self.poll_rest_ms.unwrap_or(10),
                    1..=100,
                )?),
                dying: Duration::from_micros(in_range(
                    "poll-dying-us",
                    self.poll_dying_us.unwrap_or(500),
                    50..=10_000,
                )?),
                history: in_range("history", self.history.unwrap_or(64), 0..=1000)?,
                survived: millis(in_range(
                    "survived-ms",
                    self.survived_ms.unwrap_or(3000),
                    500..=60_000,
                )?),
            },
            priority: in_range("priority", self.priority.unwrap_or(90), 1..=99)?,
            cpus: self.cpus,
            predict_cost_max: in_range(
                "predict-cost-max",
                self.predict_cost_max.unwrap_or(2),
                0..=100,
            )?,
            mitigate: mitigation(self.mitigate)?,
            udp_only: self.udp_only.unwrap_or(false),
            netconsole: self.netconsole.unwrap_or_default(),
            netconsole_port: in_range(
                "netconsole-port",
                self.netconsole_port.unwrap_or(super::NETCONSOLE_PORT),
                1..=u16::MAX,
            )?,
            configfs: self.configfs.unwrap_or_else(|| CONFIGFS.into()),
            keep_capabilities: self.keep_capabilities.unwrap_or(false),
            pod_logs: self.pod_logs.unwrap_or_else(|| "/var/log/pods".into()),
            state_dir: self.state_dir.unwrap_or_else(|| STATE_DIR.into()),
            leftovers: Leftovers {
                pstore_dir: unless_off(self.pstore_dir, "/sys/fs/pstore"),
                archive_dir: unless_off(self.archive_dir, "/var/lib/systemd/pstore"),
                crash_dirs: self
                    .crash_dir
                    .unwrap_or_else(|| vec!["/var/crash".into()])
                    .into_iter()
                    .filter(|dir| dir.as_os_str() != OFF)
                    .collect(),
                pstore_delete: self.pstore_delete.unwrap_or(false),
            },
            ready_file: self.ready_file,
            ebpf_log: self.ebpf_log.unwrap_or(false),
        })
    }
}

/// Reads `gso=apply`. The action alone only suggests: it changes nothing.
fn mitigation(given: Option<String>) -> Result<Option<MitigationMode>, Error> {
    let Some(text) = given else { return Ok(None) };
    match text.trim() {
        "" | OFF | "gso=off" => Ok(None),
        "gso" | "gso=suggest" => Ok(Some(MitigationMode::Suggest)),
        "gso=observe" => Ok(Some(MitigationMode::Observe)),
        "gso=apply" => Ok(Some(MitigationMode::Apply)),
        _ => Err(Error::Range {
            name: "mitigate",
            value: text,
            expected: "gso=observe, gso=suggest, gso=apply or off".to_owned(),
        }),
    }
}

/// In the place of a directory: do not look there.
const OFF: &str = "off";

fn unless_off(given: Option<PathBuf>, default: &str) -> Option<PathBuf> {
    let dir = given.unwrap_or_else(|| default.into());
    (dir.as_os_str() != OFF).then_some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Low {
        Low {
            collector: Some(vec!["10.0.0.5:9618".to_owned()]),
            key_file: Some("key".into()),
            ..Low::default()
        }
    }

    #[test]
    fn defaults_are_the_design_s() {
        let agent = minimal().check().expect("valid");
        assert_eq!(agent.pace.hold_max, Duration::from_millis(50));
        assert_eq!(agent.pace.rest, Duration::from_millis(10));
        assert_eq!(agent.priority, 90);
        let leftovers = agent.leftovers;
        assert_eq!(leftovers.crash_dirs, [PathBuf::from("/var/crash")]);
        assert!(leftovers.pstore_dir.is_some() && !leftovers.pstore_delete);
    }

    #[test]
    fn what_earlier_boots_left_is_not_looked_for_where_that_is_off() {
        let low = Low {
            pstore_dir: Some("off".into()),
            archive_dir: Some("/a".into()),
            crash_dir: Some(vec!["off".into(), "/b".into()]),
            ..minimal()
        };
        let found = low.check().expect("valid").leftovers;
        assert_eq!(
            (found.pstore_dir, found.archive_dir),
            (None, Some("/a".into()))
        );
        assert_eq!(found.crash_dirs, [PathBuf::from("/b")]);
    }

    #[test]
    fn nothing_is_switched_without_consent() {
        for (given, expected) in [
            (None, None),
            (Some(""), None),
            (Some("off"), None),
            (Some("gso=off"), None),
            (Some("gso"), Some(MitigationMode::Suggest)),
            (Some("gso=suggest"), Some(MitigationMode::Suggest)),
            (Some("gso=observe"), Some(MitigationMode::Observe)),
            (Some("gso=apply"), Some(MitigationMode::Apply)),
        ] {
            let low = Low {
                mitigate: given.map(str::to_owned),
                ..minimal()
            };
            assert_eq!(low.check().expect("valid").mitigate, expected, "{given:?}");
        }
        let low: Low = toml::from_str("mitigate = 'gso=apply'").expect("a file");
        assert_eq!(low.mitigate.as_deref(), Some("gso=apply"));
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_named_with_the_way_out() {
        let cases: [(Low, &str); 6] = [
            (
                Low::default(),
                "collector is not set, but must be HOST:PORT",
            ),
            (
                Low {
                    key_file: None,
                    ..minimal()
                },
                "key-file is not set",
            ),
            (
                Low {
                    hold_max_ms: Some(5000),
                    ..minimal()
                },
                "hold-max-ms is 5000, but must be 0 to 2000",
            ),
            (
                Low {
                    priority: Some(0),
                    ..minimal()
                },
                "priority is 0, but must be 1 to 99",
            ),
            (
                Low {
                    mitigate: Some("gso=always".into()),
                    ..minimal()
                },
                "mitigate is gso=always, but must be gso=observe, gso=suggest, gso=apply or off",
            ),
            (
                Low {
                    node_uid: Some("x".into()),
                    ..minimal()
                },
                "node-uid is x, but must be a UUID",
            ),
        ];
        for (low, expected) in cases {
            let error = low.check().expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
