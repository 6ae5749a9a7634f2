//! The commands of this repository: how to run things, never how they work.

mod btf;
mod build;
mod ebpf;
mod elf;
mod fuzz;
mod licences;
mod lint;
mod pass;
mod rooms;
mod run;
mod setup;
mod source;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs the work around lastgasp: tools, builds, checks, the lab.
///
/// What is missing of what a command needs is installed first, or named with the way to it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Args),
    BuildEbpf(ebpf::Args),
    Build(build::Args),
    Lint(lint::Args),
    Test(test::Args),
    Fuzz(fuzz::Args),
    Demo(pass::Demo),
    Lab(pass::Lab),
    Bench(pass::Bench),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::command(&args),
        Command::BuildEbpf(args) => ebpf::command(&args),
        Command::Build(args) => build::command(&args),
        Command::Lint(args) => lint::command(&args),
        Command::Test(args) => test::command(&args),
        Command::Fuzz(args) => fuzz::command(&args),
        Command::Demo(args) => pass::run("demo", &args.args),
        Command::Lab(args) => pass::run("lab", &args.args),
        Command::Bench(args) => pass::run("bench", &args.args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
