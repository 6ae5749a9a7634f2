//! Any bytes as the first of a dropped packet, and as the cgroups of who it belonged to.
#![no_main]

use agent_core::drops::{Owner, flow};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(flow) = flow(bytes) {
        assert!(bytes.len() >= 20, "an address in {} bytes", bytes.len());
        let inner = flow.inner.as_ref();
        assert!(inner.is_none_or(|inner| inner.inner.is_none()), "one tunnel");
        let shown = flow.to_string();
        assert!(shown.is_ascii() && shown.len() < 300, "{shown}");
    }
    if let Ok(text) = str::from_utf8(bytes) {
        assert!(!Owner::of(1, String::new(), text).name().is_empty());
    }
});
