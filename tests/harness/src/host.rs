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
}
