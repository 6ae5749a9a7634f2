//! Machines run before anything else on the host, where that is allowed.
//!
//! An emulated CPU that the host does not let run looks to its guest like one
//! that stands still: on a busy host a hold of 50 ms may pass in which no
//! instruction of the sending CPU was run. That tells nothing of the product.
//!
//! Their CPUs not by a real-time class: what it leaves to the others, 50 ms of a second,
//! it leaves in one piece, and that is the same trouble again. But what stands for devices
//! and for the cable has one: hardware does not wait for a CPU, and has little to do.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::progress;
use crate::tool::{self, CHRT, NICE};

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

/// Has this thread run as soon as it has something to do, where that is allowed.
pub fn like_hardware(thread: u32) {
    let chrt = CHRT.find().and_then(|chrt| {
        let arguments = ["--fifo", "--pid", "1", &thread.to_string()];
        tool::run(Command::new(chrt).args(arguments))
    });
    // Whoever may not do this was told so by `raise`.
    drop(chrt);
}

/// The same for the thread that calls it.
pub fn self_like_hardware() {
    let own = fs::read_link("/proc/thread-self").ok();
    let id = own.and_then(|path| path.file_name()?.to_str()?.parse().ok());
    if let Some(id) = id {
        like_hardware(id);
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
