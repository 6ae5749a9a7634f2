//! PID 1 of a lab machine.
//!
//! Sets the machine up, then does what the host says over a virtio port, one
//! line a command, one line an answer; the console stays free for the kernel.
//! Anywhere else it is a load for the benches (`flood.rs`).

mod bpf;
mod clock;
mod commands;
mod crash;
mod flood;
mod lose;
mod machine;
mod netlink;
mod orders;
mod roads;
mod traffic;
mod ways;

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    if std::process::id() != 1 {
        let line: Vec<_> = std::env::args().skip(1).collect();
        println!("{}", commands::by_hand(&line.join(" "))?);
        return Ok(());
    }
    if std::env::args().nth(1).as_deref() == Some(machine::EXIT) {
        return Ok(());
    }
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
    if crash::is_here() {
        return crash::save();
    }
    let mut answers = machine::port("lastgasp.ctl").context("no control port")?;
    writeln!(answers, "ok up")?;
    let mut children = commands::Children::default();
    for line in BufReader::new(answers.try_clone()?).lines() {
        let line = line?;
        let _turn = commands::ANSWERING.lock();
        let answer = match commands::obey(&line, &mut children) {
            Ok(answer) => format!("ok {answer}\n"),
            Err(error) => format!("error {line:?}: {error:#}\n"),
        };
        answers.write_all(answer.as_bytes())?;
    }
    Ok(())
}
