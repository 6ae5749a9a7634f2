//! What the host does to the machines.

use std::fs;

/// Milliseconds since boot in which the host's own hypervisor did not run it
/// though it wanted to, summed over its CPUs, to 10 ms (`steal` in
/// proc_stat(5)); `None` where that is not told.
///
/// To a guest it looks as if one of its CPUs stood still.
pub fn stolen_ms() -> Option<u64> {
    parse(&fs::read_to_string("/proc/stat").ok()?)
}

/// Milliseconds in which a thread of this process wanted a CPU of the host and had none,
/// summed over its threads (`run_delay`, Documentation/scheduler/sched-stats.rst); `None`
/// if it has ended.
pub fn waited_ms(pid: u32) -> Option<u64> {
    let mut ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let stat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        ns += delay_ns(&stat)?;
    }
    Some(ns / 1_000_000)
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
        assert!(waited_ms(std::process::id()).is_some());
    }
}
