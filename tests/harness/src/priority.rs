//! Real-time priority for the process that runs machines.
//!
//! An emulated CPU that the host does not let run looks to its guest like one
//! that stands still: on a busy host a hold of 50 ms may pass in which no
//! instruction of the sending CPU was run. That tells nothing of the product, so
//! machines run before anything else on the host, where that is allowed.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::progress;
use crate::tool::{self, CHRT};

/// Set in a process that was started again.
const MARK: &str = "LASTGASP_LAB_PRIORITY";

/// Starts this process again with `SCHED_RR`, once; where that is not allowed
/// it says so and goes on.
pub fn raise() {
    if std::env::var_os(MARK).is_some() {
        return;
    }
    let Err(why) = try_raise();
    progress::say(&format!(
        "machines run without real-time priority ({why:#}); a busy host may cause misses"
    ));
}

fn try_raise() -> anyhow::Result<std::convert::Infallible> {
    let chrt = CHRT.find()?;
    tool::run(Command::new(&chrt).args(["--rr", "1", "true"]))?;
    let error = Command::new(chrt)
        .args(["--rr", "1"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    Err(error.into())
}
