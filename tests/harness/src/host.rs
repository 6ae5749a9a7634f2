//! What the host does to the machines.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

/// Milliseconds since boot in which the host's own hypervisor did not run it
/// though it wanted to, summed over its CPUs, to 10 ms (`steal` in
/// proc_stat(5)); `None` where that is not told.
///
/// To a guest it looks as if one of its CPUs stood still.
pub fn stolen_ms() -> Option<u64> {
    parse(&fs::read_to_string("/proc/stat").ok()?)
}

/// A thread of a machine got a CPU of the host, for which it had waited.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// When that was seen.
    pub over: Instant,
    /// Which of the machine's threads, in the order in which it made them.
    pub thread: usize,
    /// How long, in milliseconds.
    pub ms: u64,
}

/// Shorter waits are what a host with fewer CPUs than its machines comes to.
const LONG_MS: u64 = 10;
/// More of them say no more.
const WAITS_MAX: usize = 256;

/// How long the threads of a process wanted a CPU of the host and had none (`run_delay`,
/// Documentation/scheduler/sched-stats.rst). A wait that goes on is not in it.
#[derive(Debug, Default)]
pub struct Waits {
    /// By thread: at the first look, and at the last.
    threads: BTreeMap<u32, (u64, u64)>,
    /// Those that were long.
    pub long: Vec<Wait>,
}

impl Waits {
    /// Looks. The threads of a process that has ended are not there any more.
    pub fn look(&mut self, pid: u32) {
        let over = Instant::now();
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let stat = fs::read_to_string(task.path().join("schedstat"));
            let now = stat.ok().as_deref().and_then(delay_ns);
            let (Ok(id), Some(now)) = (task.file_name().to_string_lossy().parse(), now) else {
                continue;
            };
            let (_, last) = self.threads.entry(id).or_insert((now, now));
            let ms = now.saturating_sub(*last) / 1_000_000;
            *last = now;
            if ms >= LONG_MS && self.long.len() < WAITS_MAX {
                let thread = self.threads.range(..id).count();
                self.long.push(Wait { over, thread, ms });
            }
        }
    }

    /// All of it since the first look, in milliseconds; `None` if there was none.
    pub fn all_ms(&self) -> Option<u64> {
        let ns = self
            .threads
            .values()
            .map(|(first, last)| last.saturating_sub(*first))
            .sum::<u64>();
        (!self.threads.is_empty()).then_some(ns / 1_000_000)
    }
}

fn delay_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

fn parse(stat: &str) -> Option<u64> {
    let sum = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: u64 = sum.split_whitespace().nth(7)?.parse().ok()?;
    Some(ticks * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eighth_number_counts() {
        let stat = "cpu  237652 53621 72796 415081 2161 0 544 224 0 0\ncpu0 1 2 3\n";
        assert_eq!(parse(stat), Some(2240));
        assert_eq!(parse("cpu  1 2 3\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn the_second_number_is_the_delay() {
        assert_eq!(delay_ns("214812532 299589322 522\n"), Some(299_589_322));
        assert_eq!(delay_ns(""), None);
        let mut waits = Waits::default();
        assert_eq!(waits.all_ms(), None);
        for _ in 0..2 {
            waits.look(std::process::id());
        }
        assert!(waits.all_ms().is_some());
    }
}
