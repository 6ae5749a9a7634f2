//! What each channel would have shown of an end, and what it did: for the
//! verdict that none spoke.

use super::rfc3339;
use crate::model::{Account, Channel, Evidence, NOT_ATTACHED, Opinion, Timestamp};

/// Longest list of probes in words, in bytes.
const REACH_MAX: usize = 400;

/// What the agent calls its netconsole among its probes.
const NETCONSOLE: &str = "netconsole";

/// What is known of a boot's channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness<'a> {
    /// When it was last heard.
    pub(super) heard: Option<Timestamp>,
    /// Its probes, as [`reach`] has them.
    pub(super) reach: Option<&'a str>,
    /// How its netconsole stands, as [`netconsole`] has it.
    pub(super) netconsole: Option<&'a str>,
    /// What is in its timeline.
    pub(super) evidence: &'a [Evidence],
    /// What the disk said of it, if another boot has looked.
    pub(super) marker: Option<&'a str>,
    /// What its Lease said once it was silent.
    pub(super) lease: &'a Opinion,
}

/// All channels that had a part in it.
pub(super) fn accounts(witness: &Witness<'_>) -> Vec<Account> {
    let mut accounts = Vec::new();
    for channel in Channel::ALL {
        if let Some((would, did)) = account(channel, witness) {
            accounts.push(Account {
                channel,
                would: would.to_owned(),
                did,
            });
        }
    }
    accounts
}

fn account(channel: Channel, witness: &Witness<'_>) -> Option<(&'static str, String)> {
    let last = |what: &str| match witness.heard {
        Some(at) => format!("{what} {}", rfc3339(at)),
        None => "was not heard since this annotator runs".to_owned(),
    };
    let mut own = witness.evidence.iter().filter(|e| e.channel == channel);
    // Of what anybody may say, what came first is likeliest to be true.
    let told = match channel {
        Channel::Netconsole => own.next(),
        _ => own.next_back(),
    };
    let said = told.map_or("said nothing".to_owned(), |e| format!("said {}", e.text));
    let brought = told.map_or("has brought nothing".to_owned(), |e| brought(&e.text));
    Some(match channel {
        Channel::Gasp => (
            "a panic, an oops, a lockup or an order to stop, while another CPU still runs",
            match witness.reach {
                Some(reach) => format!("{said}; {reach}"),
                None => format!("{said}; what it could hear is not known"),
            },
        ),
        Channel::Netconsole => (
            "what the kernel's console shows, without proof",
            match witness.netconsole.filter(|_| told.is_none()) {
                Some(status) => format!("{said}; {status}"),
                None => said,
            },
        ),
        Channel::Heartbeat => (
            "each second that the node lives",
            last("stopped; heard last at"),
        ),
        Channel::PreviousBoot => (
            "at the next boot, whether the agent was told to stop",
            match witness.marker {
                Some(marker) => marker.to_owned(),
                None => "is to come: no other boot has spoken".to_owned(),
            },
        ),
        Channel::Pstore => (
            "the log of a panic, at the next boot, where the kernel has a place for it",
            brought,
        ),
        Channel::Vmcore => (
            "the log of a panic, at the next boot, where a crash kernel was loaded",
            brought,
        ),
        Channel::Lease => (
            "that the kubelet lives, and only the agent or the way to us is gone",
            match witness.lease {
                Opinion::Open => "was not looked at for long enough".to_owned(),
                Opinion::Nobody(why) => why.clone(),
                Opinion::Renewed { at } => {
                    format!(
                        "was renewed, last seen at {} by its node's clock",
                        rfc3339(*at)
                    )
                }
                Opinion::NotRenewed { at, .. } => {
                    format!("was not renewed since {} by its node's clock", rfc3339(*at))
                }
            },
        ),
        // It has a record of its own.
        Channel::NodeObject => return None,
    })
}

/// What a channel did that has brought this.
pub(super) fn brought(text: &str) -> String {
    format!("has brought: {text}")
}

/// A boot's probes in words, from the statuses in its hello.
pub(super) fn reach(probes: &[(String, String)]) -> Option<String> {
    let names = |attached: bool| -> Vec<&str> {
        let wanted = probes
            .iter()
            .filter(|(role, _)| role != NETCONSOLE)
            .filter(|(_, status)| status.starts_with(NOT_ATTACHED) != attached);
        wanted.map(|(role, _)| role.as_str()).collect()
    };
    let (heard, missing) = (names(true), names(false));
    let mut text = match (heard.is_empty(), missing.is_empty()) {
        (true, true) => return None,
        (true, false) => "none of its probes was attached".to_owned(),
        (false, true) => format!("attached were: {}", heard.join(", ")),
        (false, false) => {
            let (heard, missing) = (heard.join(", "), missing.join(", "));
            format!("attached were: {heard}; not: {missing}")
        }
    };
    text.truncate(text.floor_char_boundary(REACH_MAX));
    Some(text)
}

/// How a boot's netconsole stands, from the same.
pub(super) fn netconsole(probes: &[(String, String)]) -> Option<String> {
    let (_, status) = probes.iter().find(|(role, _)| role == NETCONSOLE)?;
    let mut text = status.clone();
    text.truncate(text.floor_char_boundary(REACH_MAX));
    Some(text)
}
