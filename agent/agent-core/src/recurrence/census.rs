//! Lives and deaths, counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::words;
use super::{
    APART_MAX, Apart, AskBug, Asked, BugThere, Dimension, Fleet, GROUPS_MAX, Group, Kernel, Kind,
    NAMES_MAX, NeverDied, NodeDeaths, OneNode, ROWS_MAX, Row, Telling, Trait, compare, days,
    is_death,
};
use crate::engine;
use crate::model::{Death, NodeName, Platform, ReasonCode, Timestamp};

/// Lives and deaths of a fleet. What many boots have in common is held once.
#[derive(Debug, Default)]
pub struct Census {
    platforms: Vec<Seen>,
    /// By the traits: the platforms that have them, in order.
    traits: BTreeMap<Trait, Vec<usize>>,
    /// `uname -v` of a release, where that is known.
    versions: HashMap<String, String>,
    nodes: Vec<Node>,
    by_name: HashMap<NodeName, usize>,
    deaths: Vec<Died>,
    /// By platform.
    lives: BTreeMap<Place, Lived>,
}

/// A platform of a [`Census`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlatformId(usize);

/// What a row is of.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    kernel: String,
    firmware: String,
    drivers: Vec<String>,
}

#[derive(Debug)]
struct Seen {
    place: Place,
    alive_ms: u64,
}

#[derive(Debug)]
struct Node {
    name: NodeName,
    boots: u64,
    alive_ms: u64,
    deaths: u64,
}

#[derive(Clone, Debug, Default)]
struct Lived {
    alive_ms: u64,
    nodes: BTreeSet<usize>,
}

impl Lived {
    fn add(&mut self, node: usize, alive_ms: u64) {
        self.alive_ms = self.alive_ms.saturating_add(alive_ms);
        self.nodes.insert(node);
    }

    fn merge(&mut self, other: &Self) {
        self.alive_ms = self.alive_ms.saturating_add(other.alive_ms);
        self.nodes.extend(&other.nodes);
    }
}

/// What all groups have in common.
struct Whole<'a> {
    /// The traits that the same platforms have, with those.
    sets: Vec<(&'a [usize], Vec<&'a Trait>)>,
    alive: BTreeMap<&'a str, Lived>,
    asked: Option<usize>,
    has_bug: AskBug<'a>,
}

#[derive(Debug)]
struct Died {
    kind: Kind,
    code: ReasonCode,
    node: usize,
    at: Timestamp,
    platform: Option<usize>,
    /// Where the platform is not known.
    kernel: Option<String>,
    reason: String,
    bugs: Vec<String>,
}

impl Census {
    /// Takes in a platform.
    pub fn platform(&mut self, platform: &Platform) -> PlatformId {
        let id = self.platforms.len();
        let values = [
            (Dimension::Kernel, &platform.kernel_release),
            (Dimension::Firmware, &platform.firmware),
            (Dimension::Hardware, &platform.hardware),
            (Dimension::Microcode, &platform.microcode),
            (Dimension::Os, &platform.os),
            (Dimension::Machine, &platform.machine),
        ];
        let drivers = platform.network_drivers.iter();
        let modules = platform.modules.iter();
        let all = values
            .into_iter()
            .chain(drivers.map(|driver| (Dimension::NetworkDriver, driver)))
            .chain(modules.map(|module| (Dimension::Module, module)));
        for (of, value) in all.filter(|(_, value)| !value.is_empty()) {
            let value = value.clone();
            let having = self.traits.entry(Trait { of, value }).or_default();
            if having.last() != Some(&id) {
                having.push(id);
            }
        }
        if !platform.kernel_version.is_empty() {
            let release = platform.kernel_release.clone();
            self.versions
                .insert(release, platform.kernel_version.clone());
        }
        self.platforms.push(Seen {
            place: Place {
                kernel: platform.kernel_release.clone(),
                firmware: platform.firmware.clone(),
                drivers: platform.network_drivers.clone(),
            },
            alive_ms: 0,
        });
        PlatformId(id)
    }

    /// Takes in how long boots of a node were seen alive on a platform, in milliseconds.
    pub fn life(
        &mut self,
        node: &NodeName,
        platform: Option<PlatformId>,
        boots: u64,
        alive_ms: u64,
    ) {
        let index = self.node(node);
        let node = &mut self.nodes[index];
        node.boots = node.boots.saturating_add(boots);
        node.alive_ms = node.alive_ms.saturating_add(alive_ms);
        let mut place = Place::default();
        if let Some(seen) = platform.and_then(|PlatformId(id)| self.platforms.get_mut(id)) {
            seen.alive_ms = seen.alive_ms.saturating_add(alive_ms);
            place = seen.place.clone();
        }
        self.lives.entry(place).or_default().add(index, alive_ms);
    }

    /// Takes in a death, on the platform of its boot, if that was seen alive. A record that
    /// is of no death is left out.
    pub fn death(&mut self, death: &Death, platform: Option<PlatformId>) {
        if !is_death(death) {
            return;
        }
        let node = self.node(&death.node);
        self.nodes[node].deaths += 1;
        let report = death.report.as_ref();
        let bugs = report.iter().flat_map(|report| &report.known_bugs);
        let kernel = death.kernel_release.as_ref();
        let said = report.and_then(|report| report.kernel_release.as_ref());
        self.deaths.push(Died {
            kind: Kind::of(death),
            code: engine::reason_code(death),
            node,
            at: death.detected_at,
            platform: platform.map(|PlatformId(id)| id),
            kernel: kernel.or(said).cloned(),
            reason: engine::reason(death),
            bugs: bugs
                .filter(|bug| bug.likely)
                .map(|bug| bug.id.clone())
                .collect(),
        });
    }

    fn node(&mut self, name: &NodeName) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let index = self.nodes.len();
        self.by_name.insert(name.clone(), index);
        self.nodes.push(Node {
            name: name.clone(),
            boots: 0,
            alive_ms: 0,
            deaths: 0,
        });
        index
    }

    /// Compares them all.
    pub fn fleet(&self, since: Option<Timestamp>, asked: &Asked, has_bug: AskBug<'_>) -> Fleet {
        let seen = || self.nodes.iter().filter(|node| node.boots > 0);
        let mut names: Vec<NodeName> = seen()
            .filter(|node| node.deaths == 0)
            .map(|node| node.name.clone())
            .collect();
        names.sort();
        let never_died = NeverDied {
            nodes: names.len() as u64,
            names: names.into_iter().take(NAMES_MAX).collect(),
        };
        let asked_node = asked.node.as_ref().and_then(|name| self.by_name.get(name));
        let mut kinds: BTreeMap<&Kind, Vec<&Died>> = BTreeMap::new();
        for died in &self.deaths {
            kinds.entry(&died.kind).or_default().push(died);
        }
        kinds.retain(|kind, deaths| {
            let is_asked = asked.fingerprint.as_ref().is_none_or(|asked| {
                let begins = match kind {
                    Kind::Crash(fingerprint) => begins_so(fingerprint, asked),
                    Kind::Code(_) | Kind::Ordered(_) => false,
                };
                let coded = |died: &&Died| died.code.as_str().eq_ignore_ascii_case(asked);
                begins || deaths.iter().any(coded)
            });
            let of_node = asked.node.is_none()
                || asked_node.is_some_and(|node| deaths.iter().any(|died| died.node == *node));
            is_asked && of_node
        });
        let mut kinds: Vec<(&Kind, Vec<&Died>)> = kinds.into_iter().collect();
        let newest = |deaths: &[&Died]| deaths.iter().map(|died| died.at).max();
        kinds.sort_by_key(|(_, deaths)| Reverse((deaths.len(), newest(deaths))));
        let groups_left_out = kinds.len().saturating_sub(GROUPS_MAX) as u64;
        let whole = Whole {
            sets: self.sets(),
            alive: self.by_kernel(),
            asked: asked_node.copied(),
            has_bug,
        };
        let groups = kinds.iter().take(GROUPS_MAX);
        let groups = groups
            .map(|(kind, deaths)| self.group(kind, deaths, &whole))
            .collect();
        Fleet {
            since,
            deaths: self.deaths.len() as u64,
            nodes: seen().count() as u64,
            node_days: days(self.alive_ms()),
            never_died,
            node: asked_node.map(|index| {
                let node = &self.nodes[*index];
                OneNode {
                    node: node.name.clone(),
                    boots: node.boots,
                    node_days: days(node.alive_ms),
                    deaths: node.deaths,
                }
            }),
            groups,
            groups_left_out,
        }
    }

    /// How long boots were seen alive whose platform is known.
    fn known_ms(&self) -> u64 {
        let all = self.platforms.iter().map(|seen| seen.alive_ms);
        all.fold(0, u64::saturating_add)
    }

    fn alive_ms(&self) -> u64 {
        let all = self.nodes.iter().map(|node| node.alive_ms);
        all.fold(0, u64::saturating_add)
    }

    /// The traits that the same platforms have, with those.
    fn sets(&self) -> Vec<(&[usize], Vec<&Trait>)> {
        let mut sets: BTreeMap<&[usize], Vec<&Trait>> = BTreeMap::new();
        for (property, having) in &self.traits {
            sets.entry(having).or_default().push(property);
        }
        sets.into_iter().collect()
    }

    /// Lives by kernel, of those that are known: nobody can compare with another.
    fn by_kernel(&self) -> BTreeMap<&str, Lived> {
        let mut alive: BTreeMap<&str, Lived> = BTreeMap::new();
        let known = |(place, _): &(&Place, &Lived)| !place.kernel.is_empty();
        for (place, lived) in self.lives.iter().filter(known) {
            alive.entry(&place.kernel).or_default().merge(lived);
        }
        alive
    }

    fn group(&self, kind: &Kind, deaths: &[&Died], whole: &Whole<'_>) -> Group {
        let ordered = matches!(kind, Kind::Ordered(_));
        let mut by_node: BTreeMap<usize, u64> = BTreeMap::new();
        for died in deaths {
            *by_node.entry(died.node).or_default() += 1;
        }
        let mut nodes: Vec<NodeDeaths> = by_node
            .iter()
            .map(|(node, deaths)| NodeDeaths {
                node: self.nodes[*node].name.clone(),
                deaths: *deaths,
            })
            .collect();
        nodes.sort_by(|a, b| (Reverse(a.deaths), &a.node).cmp(&(Reverse(b.deaths), &b.node)));
        nodes.truncate(NAMES_MAX);
        let known_bugs = if ordered {
            Vec::new()
        } else {
            likeliest(deaths)
        };
        let kernels = self.kernels(deaths, &known_bugs, ordered, whole);
        let (rows, rows_left_out) = self.rows(deaths, ordered);
        let newest = deaths.iter().max_by_key(|died| died.at);
        let times = || deaths.iter().map(|died| died.at);
        let count = deaths.len() as u64;
        Group {
            fingerprint: match kind {
                Kind::Crash(fingerprint) => Some(fingerprint.clone()),
                Kind::Code(_) | Kind::Ordered(_) => None,
            },
            code: newest.map_or(ReasonCode::Unknown, |died| died.code),
            reason: newest.map_or_else(String::new, |died| died.reason.clone()),
            deaths: count,
            first: times().min().unwrap_or_default(),
            last: times().max().unwrap_or_default(),
            nodes_died: by_node.len() as u64,
            nodes,
            known_bugs,
            sentence: words::sentence(count, &kernels, kind),
            on_node: whole.asked.map(|node| {
                let own = || deaths.iter().filter(|died| died.node == node);
                let times = || own().map(|died| died.at);
                let span = times().max().unwrap_or_default();
                let span = span.since(times().min().unwrap_or_default());
                let own = own().count() as u64;
                let others = (count - own, by_node.len() as u64 - u64::from(own > 0));
                words::on_node(self.nodes[node].name.as_str(), (own, span), others)
            }),
            kernels: kernels.into_iter().take(ROWS_MAX).collect(),
            rows,
            rows_left_out,
            apart: if ordered {
                Vec::new()
            } else {
                self.apart(deaths, &whole.sets)
            },
        }
    }

    fn place(&self, died: &Died) -> Place {
        match died.platform {
            Some(id) => self.platforms[id].place.clone(),
            None => Place {
                kernel: died.kernel.clone().unwrap_or_default(),
                ..Place::default()
            },
        }
    }

    fn rows(&self, deaths: &[&Died], ordered: bool) -> (Vec<Row>, u64) {
        let (seen, with_ms) = (Self::seen_alive(deaths), self.died_ms(deaths));
        let mut died: BTreeMap<Place, (u64, BTreeSet<usize>)> = BTreeMap::new();
        for death in deaths {
            let (count, nodes) = died.entry(self.place(death)).or_default();
            *count += 1;
            nodes.insert(death.node);
        }
        let places: BTreeSet<&Place> = died.keys().chain(self.lives.keys()).collect();
        let nobody = (0, BTreeSet::new());
        let mut rows: Vec<_> = places
            .into_iter()
            .map(|place| {
                let (count, nodes) = died.get(place).unwrap_or(&nobody);
                let lived = self.lives.get(place);
                (place, *count, nodes.len(), lived)
            })
            .collect();
        rows.sort_by_key(|(_, count, _, lived)| Reverse((*count, lived.map_or(0, |l| l.alive_ms))));
        let left_out = rows.len().saturating_sub(ROWS_MAX) as u64;
        let rows = rows.into_iter().take(ROWS_MAX);
        let row = |(place, deaths, nodes_died, lived): (&Place, u64, usize, Option<&Lived>)| Row {
            kernel: place.kernel.clone(),
            firmware: place.firmware.clone(),
            network_drivers: place.drivers.clone(),
            deaths,
            nodes_died: nodes_died as u64,
            nodes: lived.map_or(0, |lived| lived.nodes.len() as u64),
            node_days: lived.map_or(0.0, |lived| days(lived.alive_ms)),
            expected: lived
                .filter(|_| deaths == 0 && !ordered)
                .map(|lived| compare(seen, with_ms, lived.alive_ms, 1))
                .filter(|none| none.telling != Telling::NotObserved)
                .map(|none| none.expected),
        };
        (rows.map(row).collect(), left_out)
    }

    /// All kernels, those with the most deaths first, then those that were seen longest.
    fn kernels(
        &self,
        deaths: &[&Died],
        bugs: &[String],
        ordered: bool,
        whole: &Whole<'_>,
    ) -> Vec<Kernel> {
        let alive = &whole.alive;
        let mut died: BTreeMap<String, (u64, BTreeSet<usize>)> = BTreeMap::new();
        for death in deaths {
            let (count, nodes) = died.entry(self.place(death).kernel).or_default();
            *count += 1;
            nodes.insert(death.node);
        }
        died.remove("");
        let with_ms = self.died_ms(deaths);
        let seen = Self::seen_alive(deaths);
        let releases: BTreeSet<&str> = died
            .keys()
            .map(String::as_str)
            .chain(alive.keys().copied())
            .collect();
        let compared = releases.len() - died.len();
        let (nobody, unseen) = ((0, BTreeSet::new()), Lived::default());
        let mut kernels: Vec<(u64, Kernel)> = releases
            .into_iter()
            .map(|release| {
                let (count, nodes) = died.get(release).unwrap_or(&nobody);
                let on_it = alive.get(release).unwrap_or(&unseen);
                let version = self.versions.get(release).map(String::as_str);
                let kernel = Kernel {
                    release: release.to_owned(),
                    deaths: *count,
                    nodes_died: nodes.len() as u64,
                    nodes: on_it.nodes.len() as u64,
                    node_days: days(on_it.alive_ms),
                    none: (*count == 0 && !ordered)
                        .then(|| compare(seen, with_ms, on_it.alive_ms, compared)),
                    bugs: bugs
                        .iter()
                        .map(|id| BugThere {
                            id: id.clone(),
                            has: (whole.has_bug)(id, release, version),
                        })
                        .collect(),
                };
                (on_it.alive_ms, kernel)
            })
            .collect();
        kernels.sort_by_key(|(alive_ms, kernel)| Reverse((kernel.deaths, *alive_ms)));
        kernels.into_iter().map(|(_, kernel)| kernel).collect()
    }

    /// How long nodes were seen alive on the kernels on which these deaths happened.
    fn died_ms(&self, deaths: &[&Died]) -> u64 {
        let mut kernels: BTreeSet<String> =
            deaths.iter().map(|died| self.place(died).kernel).collect();
        kernels.remove("");
        let on = self
            .lives
            .iter()
            .filter(|(place, _)| kernels.contains(&place.kernel));
        on.fold(0, |sum, (_, lived)| sum.saturating_add(lived.alive_ms))
    }

    /// How many deaths are of boots that were seen alive, and of how many nodes: only those
    /// can be held against lives.
    fn seen_alive(deaths: &[&Died]) -> (u64, u64) {
        let seen = || deaths.iter().filter(|died| died.platform.is_some());
        let nodes: BTreeSet<usize> = seen().map(|died| died.node).collect();
        (seen().count() as u64, nodes.len() as u64)
    }

    /// What all that died had, and without which nobody died, where that is no chance.
    fn apart(&self, deaths: &[&Died], sets: &[(&[usize], Vec<&Trait>)]) -> Vec<Apart> {
        let platforms: BTreeSet<usize> = deaths.iter().filter_map(|died| died.platform).collect();
        let seen = Self::seen_alive(deaths);
        let all_ms = self.known_ms();
        let mut apart: Vec<Apart> = sets
            .iter()
            .filter(|(having, _)| {
                platforms
                    .iter()
                    .all(|platform| having.binary_search(platform).is_ok())
            })
            .filter_map(|(having, traits)| {
                let with = having.iter().map(|id| self.platforms[*id].alive_ms);
                let with_ms = with.fold(0, u64::saturating_add);
                let without_ms = all_ms.saturating_sub(with_ms);
                let without = compare(seen, with_ms, without_ms, sets.len());
                let traits_left_out = traits.len().saturating_sub(APART_MAX) as u64;
                (without.telling == Telling::Yes).then(|| Apart {
                    traits: traits
                        .iter()
                        .take(APART_MAX)
                        .map(|t| (*t).clone())
                        .collect(),
                    traits_left_out,
                    node_days: days(with_ms),
                    node_days_without: days(without_ms),
                    without,
                })
            })
            .collect();
        apart.sort_by(|a, b| {
            let without = b.node_days_without.total_cmp(&a.node_days_without);
            without.then_with(|| a.traits.cmp(&b.traits))
        });
        apart.truncate(APART_MAX);
        apart
    }
}

/// As people type it: in whatever case.
fn begins_so(fingerprint: &str, asked: &str) -> bool {
    let head = fingerprint.get(..asked.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(asked))
}

/// The known bugs that the most of these deaths look like; two where they look alike.
fn likeliest(deaths: &[&Died]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for bug in deaths.iter().flat_map(|died| &died.bugs) {
        *counts.entry(bug).or_default() += 1;
    }
    let most = counts.values().max().copied();
    let best = counts.iter().filter(|(_, count)| Some(**count) == most);
    best.map(|(bug, _)| (*bug).to_owned()).collect()
}
