//! Which deaths are to be died, in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::coverage::NEXT_BOOT;
use super::deaths::Deaths;
use super::record::DeathRecord;
use super::run::{How, Prepared, Task};
use super::scenes::Scene;
use super::ways::{Demand, Way};

/// Triggers come after a random delay up to this, so that they meet the
/// agent's timers in every phase.
const DELAY_MAX_US: u64 = 200_000;

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next one below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }

    /// A death of this machine, at any moment and on any of its CPUs.
    pub fn task<'a>(&mut self, on: &'a Prepared, how: How, cold: bool) -> Task<'a> {
        Task {
            on,
            how,
            cold,
            delay_us: self.below(DELAY_MAX_US),
            on_cpu: self.below(on.machine.cpus.into()) as u32,
            draw: None,
            next_boot: false,
        }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len() as u64) as usize)
    }
}

/// How often each cell dies.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Deaths of a cell.
    pub runs: usize,
    /// The same of one that is survived, which takes some seconds.
    pub survived: usize,
    /// How many of them boot anew.
    pub cold: usize,
    /// And only in the first way of each machine.
    pub cold_once: bool,
    /// Of the first that gets no word out the next boot is asked as well.
    pub next_boot: bool,
}

/// Notes whose next boot was asked in an earlier run.
fn remember(prepared: &[Prepared], known: &[DeathRecord]) {
    for record in known.iter().filter(|r| r.channels.contains_key(NEXT_BOOT)) {
        let case = &record.case;
        let is_its = |on: &&Prepared| (&on.kernel, on.machine.cpus) == (&case.kernel, case.cpus);
        if let Some(on) = prepared.iter().find(is_its) {
            on.asks_next_boot(&case.way);
        }
    }
}

/// Every cell as often as it is asked for, less what `known` has of it. Machines take
/// turns, and every cell dies once before one dies twice: a run that is cut short has
/// some of each.
pub fn all<'a>(
    prepared: &'a [Prepared],
    ways: &[&'static Way],
    times: Times,
    known: &[DeathRecord],
    dice: &mut Dice,
) -> VecDeque<Task<'a>> {
    let mut had: BTreeMap<(&str, u32, &str), usize> = BTreeMap::new();
    for record in known {
        let case = &record.case;
        let cell = (case.kernel.as_str(), case.cpus, case.way.as_str());
        *had.entry(cell).or_default() += 1;
    }
    remember(prepared, known);
    let mut tasks = VecDeque::new();
    for run in 0..times.runs {
        for (index, way) in ways.iter().enumerate() {
            let at_most = if way.is_survived() {
                times.survived
            } else {
                times.runs
            };
            for on in prepared {
                // Drawn in any case: a run that goes on draws what it would have drawn.
                let cold = run < times.cold && (index == 0 || !times.cold_once);
                let task = Task {
                    next_boot: times.next_boot,
                    ..dice.task(on, How::Way(way), cold)
                };
                let cell = (on.kernel.as_str(), on.machine.cpus, way.name);
                let had = had.get(&cell).copied().unwrap_or(0);
                let once = on.impossible.contains_key(way.name) && run > 0;
                if run >= had && run < at_most && !once {
                    tasks.push_back(task);
                }
            }
        }
    }
    tasks
}

/// Every scene `runs` times on every machine that has the CPUs for it, less what `known`
/// has of it.
pub fn scenes<'a>(
    prepared: &'a [Prepared],
    scenes: &[&'static Scene],
    runs: usize,
    known: &[DeathRecord],
    dice: &mut Dice,
) -> VecDeque<Task<'a>> {
    remember(prepared, known);
    let mut tasks = VecDeque::new();
    for scene in scenes {
        for on in prepared.iter().filter(|on| on.machine.cpus == scene.cpus) {
            let of_it = |record: &&DeathRecord| {
                let case = &record.case;
                (&case.kernel, case.cpus, case.way.as_str()) == (&on.kernel, scene.cpus, scene.name)
            };
            let had = known.iter().filter(of_it).count();
            for run in 0..runs {
                // Drawn in any case, as above.
                let task = Task {
                    next_boot: true,
                    ..dice.task(on, How::Scene(scene), true)
                };
                if run >= had {
                    tasks.push_back(task);
                }
            }
        }
    }
    tasks
}

/// Deaths drawn at random, those with the numbers in `left`: kernel, CPUs of the machine,
/// way, moment and the CPU that dies; of those ways that end a machine and of which
/// something must get out. The same seed draws the same.
pub fn drawn<'a>(
    prepared: &'a [Prepared],
    ways: &[&'static Way],
    left: &BTreeSet<u64>,
    seed: u64,
) -> VecDeque<Task<'a>> {
    let mut tasks = VecDeque::new();
    for draw in left {
        let mut dice = Dice(seed ^ draw.rotate_left(32));
        let Some(on) = dice.pick(prepared) else {
            break;
        };
        let able: Vec<&&Way> = ways
            .iter()
            .filter(|way| way.ends() && way.demand_on(on.machine.cpus) != Demand::End)
            .filter(|way| !on.impossible.contains_key(way.name))
            .collect();
        let Some(way) = dice.pick(&able) else {
            continue;
        };
        tasks.push_back(Task {
            draw: Some(*draw),
            ..dice.task(on, How::Way(way), false)
        });
    }
    tasks
}

/// The draws below `count` of which nothing is known yet.
pub fn left(count: u64, seed: u64, known: &[DeathRecord], kept: &Deaths) -> BTreeSet<u64> {
    let had: BTreeSet<u64> = known
        .iter()
        .filter(|record| record.case.seed == seed)
        .filter_map(|record| record.case.draw)
        .collect();
    let is_left = |draw: &u64| !had.contains(draw) && !kept.has(seed, *draw);
    (0..count).filter(is_left).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use harness::arch::Arch;
    use harness::vm::Machine;

    use super::super::scenes::ALL;
    use super::*;

    fn prepared(cpus: u32) -> Prepared {
        Prepared {
            kernel: "6.1".into(),
            release: "6.1.0-50".into(),
            machine: Machine {
                arch: Arch::Amd64,
                image: "vmlinuz".into(),
                initramfs: [].into(),
                cpus,
                memory: 512,
                append: String::new(),
                forward: Vec::new(),
                disk: None,
                devices: Vec::new(),
                decoys: 0,
                limit: Duration::from_secs(60),
            },
            sent: Vec::new(),
            snapshot: "snapshot".into(),
            clock: "tsc".into(),
            impossible: BTreeMap::new(),
            booted_again: Mutex::default(),
        }
    }

    #[test]
    fn the_next_boot_is_asked_about_the_first_silent_death_of_each_kind() {
        let machines = [prepared(2), prepared(4)];
        let mut known = DeathRecord::good("6.1", 2, "sysrq-b");
        known.channels.insert(NEXT_BOOT.into(), "yes".into());
        remember(&machines, &[known, DeathRecord::good("6.1", 2, "sysrq-c")]);
        let asks = |cpus: usize, way| machines[cpus].asks_next_boot(way);
        assert!(!asks(0, "sysrq-b") && asks(1, "sysrq-b"));
        assert!(asks(0, "sysrq-c") && !asks(0, "sysrq-c"));
    }

    #[test]
    fn scenes_that_go_on_draw_what_they_would_have_drawn() {
        let machines = [prepared(2), prepared(4)];
        let all: Vec<&Scene> = ALL.iter().collect();
        let plan = |known: &[DeathRecord]| -> Vec<(&str, u32, u64)> {
            let tasks = scenes(&machines, &all, 2, known, &mut Dice(1));
            let said = |task: &Task<'_>| (task.how.name(), task.on.machine.cpus, task.delay_us);
            tasks.iter().map(said).collect()
        };
        let whole = plan(&[]);
        assert_eq!(whole.len(), ALL.len() * 2);
        assert_eq!((whole[0].0, whole[0].1), ("sender-dies", 4));
        let known = [
            DeathRecord::good("6.1", 4, "sender-dies"),
            // On a machine that it is not played on any more.
            DeathRecord::good("6.1", 2, "sender-dies"),
        ];
        assert_eq!(plan(&known), whole[1..]);
    }
}
