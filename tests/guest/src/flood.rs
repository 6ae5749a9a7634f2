//! Load and yardstick for the benches: in a lab machine as PID 1's commands,
//! elsewhere by hand (`guest flood LINES MS`, as root; `guest wake US MS`).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::machine;

const LOG: &str = "/dev/kmsg";

/// Between two bursts.
const TICK: Duration = Duration::from_millis(5);

/// The kernel drops what one opener of the log writes beyond this in five
/// seconds (`printk_devkmsg`, `___ratelimit`), so each burst is a new opener.
const BURST: u64 = 10;

/// Writes debug lines, evenly over this time.
///
/// Answers with `CPU_US WALL_US LOGGED`: the CPU time that writing took and the
/// time over all, in microseconds, and the lines that the kernel log took.
pub(crate) fn flood(lines: u64, over: Duration) -> Result<String> {
    let ran = std::thread::spawn(move || run(lines, over)).join();
    ran.ok().context("the writer panicked")?
}

fn run(lines: u64, over: Duration) -> Result<String> {
    let first = sequence()?;
    let (cpu, start) = (cpu_us()?, Instant::now());
    let mut written = 0;
    while written < lines {
        let share = start.elapsed().as_secs_f64() / over.as_secs_f64();
        let due = ((lines as f64 * share) as u64).min(lines);
        while written < due {
            let burst = (due - written).min(BURST);
            let mut log = OpenOptions::new().write(true).open(LOG)?;
            for n in written..written + burst {
                // Of the length that a network driver's line has. One write is
                // one record, hence no writeln!.
                let line = format!(
                    "<7>flood: line {n} of {lines}, eth0: link state 0x0 queue 3 budget 64\n"
                );
                log.write_all(line.as_bytes())?;
            }
            written += burst;
        }
        std::thread::sleep(TICK);
    }
    let (cpu, wall) = (cpu_us()? - cpu, start.elapsed().as_micros());
    let logged = sequence()? - first - 1;
    ensure!(
        logged >= lines,
        "the kernel log took {logged} of {lines} lines"
    );
    Ok(format!("{cpu} {wall} {logged}"))
}

/// CPU time in microseconds of two threads that wake up this often, over this
/// time, as the agent's drain threads do, and do nothing else: what waiting
/// alone costs on this machine.
pub(crate) fn wake(every: Duration, over: Duration) -> Result<String> {
    let threads = [0, 1].map(|cpu| {
        std::thread::spawn(move || -> Result<u64> {
            machine::like_a_drain(cpu).context("no real-time priority (this takes root)")?;
            let (cpu, start) = (cpu_us()?, Instant::now());
            while start.elapsed() < over {
                std::thread::sleep(every);
            }
            Ok(cpu_us()? - cpu)
        })
    });
    let mut sum = 0;
    for thread in threads {
        sum += thread.join().ok().context("a thread panicked")??;
    }
    Ok(sum.to_string())
}

/// CPU time of this thread in microseconds, in the kernel and outside
/// (`sum_exec_runtime`, fs/proc/base.c).
fn cpu_us() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().unwrap_or_default();
    let ns: u64 = first.parse().context("/proc/thread-self/schedstat")?;
    Ok(ns / 1000)
}

/// Writes a line and gives its number in the kernel log.
fn sequence() -> Result<u64> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(LOG)
        .with_context(|| format!("cannot open {LOG} (this takes root)"))?;
    log.seek(SeekFrom::End(0))?;
    OpenOptions::new()
        .write(true)
        .open(LOG)?
        .write_all(b"<7>flood: counting\n")?;
    next(&mut log)
}

/// The number of the next record: `LEVEL,NUMBER,MICROSECONDS,FLAGS;TEXT`
/// (Documentation/ABI/testing/dev-kmsg).
fn next(log: &mut File) -> Result<u64> {
    let mut record = [0; 8192];
    let len = log.read(&mut record)?;
    let text = String::from_utf8_lossy(&record[..len]);
    let number = text.split(',').nth(1).unwrap_or_default();
    number.parse().context("a record of the kernel log")
}

/// Sends full frames for ever. What the device does not take makes the sender wait.
pub(crate) fn pour(socket: &UdpSocket, to: SocketAddr) -> ! {
    let payload = [0; 1400];
    loop {
        // A way that is gone may come back.
        let _ = socket.send_to(&payload, to);
    }
}
