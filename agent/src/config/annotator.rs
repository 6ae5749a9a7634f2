//! Settings of `lastgasp annotator`.

use std::net::SocketAddr;
use std::path::PathBuf;

use agent_core::engine::{Keys, Limits, is_prefix};
use serde::{Deserialize, Serialize};

use super::{Error, in_range};

/// UDP port for gasps unless configured.
pub const GASP_PORT: u16 = 9618;
/// TCP address of the HTTP pages unless configured: loopback only.
pub const HTTP: &str = "127.0.0.1:9619";

/// As given: by flags, environment or the `[annotator]` table of the file.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Low {
    /// UDP address to receive gasps on [default: 0.0.0.0:9618]
    #[arg(long, value_name = "ADDR:PORT", env = "LASTGASP_LISTEN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// UDP address to hear netconsole on, as 0.0.0.0:6666, or `off`. What it says is
    /// shown and never acted on: anybody on the network may send it [default: off]
    #[arg(long, value_name = "ADDR:PORT", env = "LASTGASP_NETCONSOLE_LISTEN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netconsole_listen: Option<String>,
    /// TCP address of health, metrics and answers [default: 127.0.0.1:9619]
    #[arg(long, value_name = "ADDR:PORT", env = "LASTGASP_HTTP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// File of the store [default: /var/lib/lastgasp/annotator.db, or the user's
    /// own state directory where that is not writable]
    #[arg(long, value_name = "FILE", env = "LASTGASP_STORE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// File with the key that agents seal their gasps with
    #[arg(long, value_name = "FILE", env = "LASTGASP_KEY_FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Write to Kubernetes: Node condition, taint, NodeDeath, pods
    #[arg(long, env = "LASTGASP_KUBE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kube: Option<bool>,
    /// Kubeconfig file [default: KUBECONFIG, ~/.kube/config, or the service account]
    #[arg(long, value_name = "FILE", env = "LASTGASP_KUBECONFIG")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Prefix of the annotations [default: lastgasp.dev]
    #[arg(long, value_name = "DOMAIN", env = "LASTGASP_PREFIX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Also write DOMAIN/pod-termination-reason and its like, for tools that
    /// read those [default: none]
    #[arg(long, value_name = "DOMAIN", env = "LASTGASP_LEGACY_PREFIX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legacy_prefix: Option<String>,
    /// Milliseconds without a heartbeat until a node counts as silent, 2000 to
    /// 600000 [default: 10000]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_ms: Option<u64>,
    /// Milliseconds that a boot must live on after a panic to revoke it, 1000
    /// to 600000 [default: 10000]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoke_ms: Option<u64>,
    /// Pods written at the same time, 1 to 64 [default: 24]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods_in_flight: Option<usize>,
    /// Most nodes remembered, 16 to 200000 [default: 20000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_nodes: Option<usize>,
}

/// Checked and typed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// UDP address for gasps.
    pub listen: SocketAddr,
    /// UDP address for netconsole, if it is heard.
    pub netconsole: Option<SocketAddr>,
    /// TCP address for HTTP.
    pub http: SocketAddr,
    /// The store's file; `None` leaves it to [`default_stores`].
    pub store: Option<PathBuf>,
    /// The key's file.
    pub key_file: Option<PathBuf>,
    /// The cluster to write to, if any.
    pub kube: Option<Kube>,
    /// Prefixes of the annotations.
    pub keys: Keys,
    /// The engine's limits.
    pub limits: Limits,
}

/// The cluster to write to.
#[derive(Clone, Debug)]
pub struct Kube {
    /// Kubeconfig file, if named.
    pub kubeconfig: Option<PathBuf>,
    /// Its context, if named.
    pub context: Option<String>,
    /// Pods written at the same time.
    pub pods_in_flight: usize,
}

impl TryFrom<Low> for Settings {
    type Error = Error;

    fn try_from(low: Low) -> Result<Self, Error> {
        let Low {
            listen,
            netconsole_listen,
            http,
            store,
            key_file,
            kube,
            kubeconfig,
            context,
            prefix,
            legacy_prefix,
            silence_ms,
            revoke_ms,
            pods_in_flight,
            max_nodes,
        } = low;
        let default = Limits::default();
        let limits = Limits {
            silence_ms: in_range(
                "silence-ms",
                silence_ms.unwrap_or(default.silence_ms),
                2_000..=600_000,
            )?,
            revoke_ms: in_range(
                "revoke-ms",
                revoke_ms.unwrap_or(default.revoke_ms),
                1_000..=600_000,
            )?,
            nodes: in_range(
                "max-nodes",
                max_nodes.unwrap_or(default.nodes),
                16..=200_000,
            )?,
            leases: kube.unwrap_or(false),
            ..default
        };
        let pods_in_flight = in_range("pods-in-flight", pods_in_flight.unwrap_or(24), 1..=64)?;
        let keys = Keys {
            prefix: domain("prefix", prefix.unwrap_or(Keys::default().prefix))?,
            legacy_prefix: legacy_prefix
                .map(|prefix| domain("legacy-prefix", prefix))
                .transpose()?,
        };
        let kube = kube.unwrap_or(false).then_some(Kube {
            kubeconfig,
            context,
            pods_in_flight,
        });
        Ok(Self {
            listen: listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], GASP_PORT))),
            netconsole: netconsole_listen
                .filter(|text| text != "off")
                .map(|text| address("netconsole-listen", text))
                .transpose()?,
            http: http.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9619))),
            store,
            key_file,
            kube,
            keys,
            limits,
        })
    }
}

/// Where the store is looked for and made if no file is named, in this order:
/// the system's place, then the user's own state directory (XDG Base Directory
/// Specification).
pub fn default_stores() -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home);
    let system = PathBuf::from("/var/lib/lastgasp/annotator.db");
    let own = state.map(|state| state.join("lastgasp/annotator.db"));
    std::iter::once(system).chain(own).collect()
}

fn address(name: &'static str, value: String) -> Result<SocketAddr, Error> {
    value.parse().map_err(|_| Error::Range {
        name,
        value,
        expected: "ADDR:PORT or `off`".to_owned(),
    })
}

fn domain(name: &'static str, value: String) -> Result<String, Error> {
    if is_prefix(&value) {
        return Ok(value);
    }
    Err(Error::Range {
        name,
        value,
        expected: "a DNS name such as example.org".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_is_stand_alone_on_the_documented_ports() {
        let settings = Settings::try_from(Low::default()).expect("defaults are valid");
        assert_eq!(settings.listen.to_string(), "0.0.0.0:9618");
        assert_eq!(settings.http.to_string(), HTTP);
        assert_eq!(settings.netconsole, None);
        assert!(settings.kube.is_none());
        assert_eq!(settings.keys, Keys::default());
    }

    #[test]
    fn what_is_not_safe_is_refused_by_name() {
        let low = |change: fn(&mut Low)| {
            let mut low = Low::default();
            change(&mut low);
            Settings::try_from(low)
                .expect_err("out of range")
                .to_string()
        };
        for (error, name) in [
            (low(|l| l.silence_ms = Some(1)), "silence-ms"),
            (low(|l| l.revoke_ms = Some(0)), "revoke-ms"),
            (low(|l| l.pods_in_flight = Some(0)), "pods-in-flight"),
            (low(|l| l.max_nodes = Some(1)), "max-nodes"),
            (low(|l| l.prefix = Some("no/slash".into())), "prefix"),
            (
                low(|l| l.netconsole_listen = Some("6666".into())),
                "netconsole-listen",
            ),
        ] {
            assert!(error.starts_with(name), "{error}");
        }
    }
}
