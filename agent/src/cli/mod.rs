//! The commands. Only this room puts the others together.

mod agent;
mod annotator;
mod ask;
mod bugs;
mod completions;
mod crd;
mod deaths;
mod decode;
mod doctor;
mod fleet;
mod known;
mod mitigate;
pub mod out;
mod trace;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Makes a dying kernel say why, and writes it on its pods.
#[derive(Debug, Parser)]
#[command(name = "lastgasp", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(Box<agent::Args>),
    Annotator(Box<annotator::Args>),
    Deaths(deaths::Args),
    Why(why::Args),
    Fleet(fleet::Args),
    Decode(decode::Args),
    Bugs(bugs::Args),
    Trace(trace::Args),
    Doctor(doctor::Args),
    Mitigate(mitigate::Args),
    Completions(completions::Args),
    Crd(crd::Args),
}

/// Runs one command and says how it ended.
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Agent(args) => agent::run(&args),
        Command::Annotator(args) => annotator::run(&args),
        Command::Deaths(args) => deaths::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Fleet(args) => fleet::run(&args),
        Command::Decode(args) => Ok(decode::run(&args)),
        Command::Bugs(args) => bugs::run(args),
        Command::Trace(args) => trace::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Mitigate(args) => mitigate::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Crd(args) => crd::run(&args),
    };
    result.unwrap_or_else(|error| out::fail(&error))
}
