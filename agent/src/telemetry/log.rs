//! Structured logs on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    PartialEq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `LASTGASP_LOG` sets what is shown (`debug`,
/// `info,lastgasp::gasp=trace`); `info` and up by default.
pub fn start(format: Format) {
    let filter = EnvFilter::try_from_env("LASTGASP_LOG")
        // kube logs each failed connection; the annotator says the same once, with its cause.
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(out_is_colour()).init(),
        Format::Json => builder.json().init(),
    }
}

/// Colours only on a terminal, and not where NO_COLOR is set.
fn out_is_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
