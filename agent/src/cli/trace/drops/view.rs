//! What was seen so far, and what things are called.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::drops::{Flow, Key, Reasons, Tally, flow};

use crate::kernel::addresses::Addresses;
use crate::kernel::drops::Sample;
use crate::node::netns::{Namespace, Namespaces};

/// What was seen, and the names for it.
pub(super) struct View {
    pub(super) reasons: Reasons,
    pub(super) tally: Tally,
    /// Also what may be no drop.
    pub(super) shows_all: bool,
    addresses: Addresses,
    namespaces: Namespaces,
    /// Looked for and not found; not looked for again.
    unknown: BTreeSet<u32>,
    devices: BTreeMap<(u32, u32), Option<String>>,
    /// The last sample of each key: not more than there are keys.
    samples: BTreeMap<Key, Sample>,
}

impl View {
    pub(super) fn new(reasons: Reasons, namespaces: Namespaces) -> Self {
        Self {
            reasons,
            tally: Tally::default(),
            shows_all: false,
            addresses: Addresses::of_running_kernel(),
            namespaces,
            unknown: BTreeSet::new(),
            devices: BTreeMap::new(),
            samples: BTreeMap::new(),
        }
    }

    /// Takes a sample in.
    pub(super) fn keep(&mut self, sample: Sample) {
        if let Some(device) = &sample.device {
            let at = (sample.key.netns, sample.key.device);
            self.devices.insert(at, Some(device.clone()));
        }
        self.samples.insert(sample.key, sample);
    }

    /// The last sample of a key.
    pub(super) fn sample(&self, key: &Key) -> Option<&Sample> {
        self.samples.get(key)
    }

    /// From whom to whom that one was.
    pub(super) fn flow(&self, key: &Key) -> Option<Flow> {
        flow(&self.sample(key)?.header)
    }

    /// Whether the kernel tells no names of functions.
    pub(super) fn hides_functions(&self) -> bool {
        self.addresses.are_hidden()
    }

    /// The function at an address.
    pub(super) fn function(&self, address: u64) -> String {
        self.addresses.name(address)
    }

    /// What is known of a namespace.
    pub(super) fn namespace(&mut self, number: u32) -> Option<&Namespace> {
        if number != 0 && self.namespaces.get(number).is_none() && self.unknown.insert(number) {
            self.namespaces.scan();
        }
        self.namespaces.get(number)
    }

    /// What to call it.
    pub(super) fn whose(&mut self, number: u32) -> String {
        if number == 0 {
            return "-".to_owned();
        }
        let label = self.namespace(number).and_then(Namespace::label);
        label.unwrap_or_else(|| format!("net:[{number}]"))
    }

    /// The name of the device of a key.
    pub(super) fn device(&mut self, key: &Key) -> Option<String> {
        if key.device == 0 {
            return None;
        }
        let namespaces = &self.namespaces;
        let at = (key.netns, key.device);
        let device = self.devices.entry(at);
        device
            .or_insert_with(|| namespaces.device(key.netns, key.device))
            .clone()
    }
}
