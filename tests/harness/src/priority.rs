//! Machines run before anything else on the host, where that is allowed.
//!
//! An emulated CPU that the host does not let run looks to its guest like one
//! that stands still: on a busy host a hold of 50 ms may pass in which no
//! instruction of the sending CPU was run. That tells nothing of the product.
//!
//! Not by a real-time class: what it leaves to the others, 50 ms of a second, it
//! leaves in one piece, and that is the same trouble again.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::progress;
use crate::tool::{self, NICE};

/// Set in a process that was started again.
const MARK: &str = "LASTGASP_LAB_PRIORITY";

/// The highest priority of the ordinary class.
const HIGHEST: &str = "-19";

/// Starts this process again at the highest ordinary priority, once; where
/// that is not allowed it says so and goes on.
pub fn raise() {
    if std::env::var_os(MARK).is_some() {
        // Where the scheduler groups by session, the session's own weight counts (sched(7)).
        let _ = fs::write("/proc/self/autogroup", HIGHEST);
        return;
    }
    let Err(why) = try_raise();
    progress::say(&format!(
        "machines run at ordinary priority ({why:#}); a busy host may cause misses"
    ));
}

/// The session's weight as it was; to be called at the end.
pub fn lower() {
    if std::env::var_os(MARK).is_some() {
        let _ = fs::write("/proc/self/autogroup", "0");
    }
}

fn try_raise() -> anyhow::Result<std::convert::Infallible> {
    let nice = NICE.find()?;
    tool::run(Command::new(&nice).args(["-n", HIGHEST, "true"]))?;
    let error = Command::new(nice)
        .args(["-n", HIGHEST])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    Err(error.into())
}
