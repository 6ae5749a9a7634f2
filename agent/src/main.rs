//! The `lastgasp` binary: parse, dispatch, exit code. Everything else is in the
//! library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    lastgasp::cli::run(lastgasp::cli::Cli::parse())
}
