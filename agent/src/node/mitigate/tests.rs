use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

const BOOT: BootId = BootId([1; 16]);
const NEXT: BootId = BootId([2; 16]);
const RELEASE: &str = "6.1.1";

/// A kernel with some devices: what is on, by name and index.
#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    devices: BTreeMap<String, (u32, BTreeSet<String>)>,
    /// Each switch, in order: device, features, on.
    calls: Vec<(String, Vec<String>, bool)>,
    refuses: bool,
    /// The kernel dies, or the agent is killed, after so many more calls.
    left: Option<u32>,
    fixed: BTreeSet<String>,
}

impl Fake {
    fn with(names: &[&str]) -> Self {
        let fake = Self::default();
        for (at, name) in names.iter().enumerate() {
            let on = ["rx-gro", "tx-generic-segmentation", "tx-tcp-segmentation"];
            let on = on.iter().map(|f| (*f).to_owned()).collect();
            let device = ((*name).to_owned(), (at as u32 + 2, on));
            fake.0.borrow_mut().devices.insert(device.0, device.1);
        }
        fake
    }

    fn on(&self, name: &str) -> Vec<String> {
        self.0.borrow().devices[name].1.iter().cloned().collect()
    }

    fn all(&self) -> BTreeMap<String, (u32, BTreeSet<String>)> {
        self.0.borrow().devices.clone()
    }
}

impl Devices for Fake {
    fn find(&self, name: &str) -> Option<Device> {
        let index = self.0.borrow().devices.get(name)?.0;
        Some(Device {
            name: name.to_owned(),
            index,
        })
    }

    fn features(&mut self, device: &Device) -> io::Result<Features> {
        let inner = self.0.borrow();
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let (_, active) = inner.devices.get(&device.name).ok_or_else(gone)?;
        let all = RECEIVE.iter().chain(&SEND).map(|f| (*f).to_owned());
        let changeable = all.filter(|f| !inner.fixed.contains(f)).collect();
        Ok(Features {
            active: active.clone(),
            changeable,
        })
    }

    fn switch(&mut self, device: &Device, features: &[String], on: bool) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        if inner.refuses || inner.left == Some(0) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        inner.left = inner.left.map(|left| left - 1);
        let call = (device.name.clone(), features.to_vec(), on);
        inner.calls.push(call);
        let Some((_, active)) = inner.devices.get_mut(&device.name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        for feature in features {
            if on {
                active.insert(feature.clone());
            } else {
                active.remove(feature);
            }
        }
        Ok(())
    }
}

fn settings(dir: &Path, mode: MitigationMode, boot: BootId) -> Settings {
    Settings {
        dir: dir.to_owned(),
        mode,
        boot,
        release: RELEASE.to_owned(),
    }
}

fn start(dir: &Path, fake: &Fake) -> Mitigator<Fake> {
    let mut mitigator = Mitigator::begin(settings(dir, MitigationMode::Apply, BOOT), fake.clone());
    mitigator.set_uplinks(vec!["eth0".into()]);
    mitigator
}

fn death() -> MitigationCause {
    MitigationCause {
        death: Some("w01-00000009".into()),
        bug: Some("cve-2024-42281".into()),
        ..MitigationCause::default()
    }
}

fn packet(device: Option<&str>) -> MitigationCause {
    MitigationCause {
        packet: Some("BUG_ON(!list_skb->head_frag)".into()),
        device: device.map(str::to_owned),
        ..MitigationCause::default()
    }
}

#[test]
fn gro_goes_off_where_packets_come_and_gso_where_that_packet_left() {
    // Uplinks, the device that it left by, and what is switched off on each.
    const BOTH: &str = "GRO, GSO, TSO";
    for (left_by, expected) in [
        (None, vec![("eth0", BOTH), ("eth1", BOTH)]),
        (Some("eth0"), vec![("eth0", BOTH), ("eth1", "GRO")]),
        (
            Some("cni0"),
            vec![("eth0", "GRO"), ("eth1", "GRO"), ("cni0", "GSO, TSO")],
        ),
        // It is not there any more.
        (Some("veth9"), vec![("eth0", BOTH), ("eth1", BOTH)]),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fake = Fake::with(&["eth0", "eth1", "cni0", "other"]);
        let mut mitigator = start(dir.path(), &fake);
        mitigator.met(packet(left_by), Timestamp(5));
        mitigator.set_uplinks(vec!["eth1".into(), "eth0".into(), "eth1".into()]);
        mitigator.turn(Timestamp(6));
        let status = mitigator.status();
        let done: Vec<(String, String)> = status
            .devices
            .iter()
            .map(|d| (d.device.clone(), d.names().to_uppercase()))
            .collect();
        let done: Vec<(&str, &str)> = done.iter().map(|(d, f)| (&**d, &**f)).collect();
        assert_eq!(done, expected);
        assert_eq!(status.state, MitigationState::Applied);
        assert_eq!(fake.on("other").len(), 3);
        // All that comes first, and back in the opposite order.
        let order = |on: bool| -> Vec<bool> {
            let inner = fake.0.borrow();
            let calls = inner.calls.iter().filter(|call| call.2 == on);
            calls.map(|call| call.1[0].starts_with("rx")).collect()
        };
        assert!(
            order(false).is_sorted_by(|a, b| a >= b),
            "{:?}",
            order(false)
        );
        mitigator.stop();
        assert!(fake.all().values().all(|(_, on)| on.len() == 3));
    }
}

#[test]
fn without_consent_nothing_is_switched_but_it_is_known_what_would_be() {
    for (mode, state) in [
        (MitigationMode::Observe, MitigationState::Observed),
        (MitigationMode::Suggest, MitigationState::Suggested),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fake = Fake::with(&["eth0"]);
        let mut mitigator = Mitigator::begin(settings(dir.path(), mode, BOOT), fake.clone());
        assert_eq!(mitigator.status().state, MitigationState::Ready);
        mitigator.set_uplinks(vec!["eth0".into()]);
        mitigator.turn(Timestamp(1));
        assert!(mitigator.status().devices.is_empty());
        mitigator.met(death(), Timestamp(2));
        mitigator.turn(Timestamp(3));
        let status = mitigator.status();
        assert_eq!((status.state, status.since), (state, Timestamp(2)));
        assert_eq!(
            status.commands(),
            ["ethtool -K eth0 gro off gso off tso off"]
        );
        assert!(fake.0.borrow().calls.is_empty());
        assert_eq!(known(dir.path(), BOOT).map(|m| m.state), Some(state));
    }
}

#[test]
fn an_undo_by_hand_stays_for_this_boot_and_may_be_repeated() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fake = Fake::with(&["eth0"]);
    assert!(
        undo(dir.path(), BOOT, &mut fake, Timestamp(1))
            .expect("no file")
            .is_none()
    );
    let mut mitigator = start(dir.path(), &fake);
    mitigator.met(death(), Timestamp(2));
    mitigator.turn(Timestamp(3));
    assert!(fake.on("eth0").is_empty());

    let undone = undo(dir.path(), BOOT, &mut fake, Timestamp(4));
    let undone = undone.expect("a disk").expect("something was done");
    assert_eq!(undone.devices.len(), 1);
    assert_eq!(undone.devices[0].1, Outcome::Restored);
    assert_eq!(fake.on("eth0").len(), 3);
    let again = undo(dir.path(), BOOT, &mut fake, Timestamp(5));
    let again = again.expect("a disk").expect("it is known");
    assert!(again.devices.is_empty());

    mitigator.met(packet(None), Timestamp(6));
    mitigator.turn(Timestamp(7));
    assert_eq!(mitigator.status().state, MitigationState::Undone);
    assert_eq!(mitigator.status().since, Timestamp(4));
    // Nor by an agent that starts again.
    let mut mitigator = start(dir.path(), &fake);
    mitigator.met(death(), Timestamp(8));
    mitigator.turn(Timestamp(9));
    assert_eq!(fake.on("eth0").len(), 3);
    // The next boot begins anew.
    let next = settings(dir.path(), MitigationMode::Apply, NEXT);
    let mut mitigator = Mitigator::begin(next, fake.clone());
    assert_eq!(mitigator.status().state, MitigationState::Ready);
    mitigator.set_uplinks(vec!["eth0".into()]);
    mitigator.met(death(), Timestamp(10));
    mitigator.turn(Timestamp(11));
    assert!(fake.on("eth0").is_empty());
}

#[test]
fn the_next_boot_of_the_same_kernel_does_it_at_once_and_another_kernel_never() {
    for (release, state) in [
        (RELEASE, MitigationState::Applied),
        ("6.1.103", MitigationState::Ready),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let before = Fake::with(&["eth0"]);
        let mut mitigator = start(dir.path(), &before);
        mitigator.met(death(), Timestamp(1));
        mitigator.turn(Timestamp(2));
        // The machine goes from under it; all is on again.
        let fake = Fake::with(&["eth0"]);
        let mut next = settings(dir.path(), MitigationMode::Apply, NEXT);
        next.release = release.to_owned();
        let mut mitigator = Mitigator::begin(next, fake.clone());
        assert!(mitigator.status().devices.is_empty());
        mitigator.turn(Timestamp(3));
        assert_ne!(mitigator.status().state, MitigationState::Applied);
        mitigator.set_uplinks(vec!["eth0".into()]);
        mitigator.turn(Timestamp(4));
        assert_eq!(mitigator.status().state, state);
        assert_eq!(
            fake.on("eth0").is_empty(),
            state == MitigationState::Applied
        );
    }
}

#[test]
fn what_somebody_switched_on_meanwhile_is_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let fake = Fake::with(&["eth0", "eth1"]);
    let mut mitigator = start(dir.path(), &fake);
    mitigator.met(death(), Timestamp(1));
    mitigator.turn(Timestamp(2));
    let gro = "rx-gro".to_owned();
    let switch = |device: &str| {
        let mut inner = fake.0.borrow_mut();
        let device = inner.devices.get_mut(device).expect("a device");
        device.1.insert(gro.clone());
    };
    switch("eth0");
    // Nor is it fought over, when another uplink comes.
    mitigator.set_uplinks(vec!["eth0".into(), "eth1".into()]);
    mitigator.turn(Timestamp(3));
    assert_eq!(fake.on("eth0"), ["rx-gro"]);
    assert!(fake.on("eth1").is_empty());
    mitigator.stop();
    assert_eq!((fake.on("eth0").len(), fake.on("eth1").len()), (3, 3));
    let inner = fake.0.borrow();
    let back = inner.calls.iter().filter(|(d, _, on)| *on && d == "eth0");
    assert!(back.flat_map(|call| &call.1).all(|feature| *feature != gro));
}

#[test]
fn what_the_kernel_refuses_is_said_and_tried_again_later() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let fake = Fake::with(&["eth0"]);
    fake.0.borrow_mut().refuses = true;
    let mut mitigator = start(dir.path(), &fake);
    mitigator.met(death(), Timestamp(1));
    mitigator.turn(Timestamp(2));
    let status = mitigator.status();
    assert_eq!(status.state, MitigationState::Failed);
    let problem = status.problem.expect("a problem");
    assert!(
        problem.contains("eth0") && problem.contains("NET_ADMIN"),
        "{problem}"
    );
    assert_eq!(fake.on("eth0").len(), 3);
    fake.0.borrow_mut().refuses = false;
    for turn in 0..TRY_AGAIN {
        mitigator.turn(Timestamp(3 + u64::from(turn)));
    }
    assert_eq!(mitigator.status().state, MitigationState::Applied);
    assert!(fake.on("eth0").is_empty());
}

#[test]
fn what_somebody_may_not_undo_the_agent_undoes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fake = Fake::with(&["eth0"]);
    let mut mitigator = start(dir.path(), &fake);
    mitigator.met(death(), Timestamp(1));
    mitigator.turn(Timestamp(2));
    fake.0.borrow_mut().refuses = true;
    let undone = undo(dir.path(), BOOT, &mut fake, Timestamp(3));
    let undone = undone.expect("a disk").expect("something was done");
    assert!(undone.problem.is_some());
    assert_eq!(undone.devices[0].1, Outcome::Refused);
    assert!(fake.on("eth0").is_empty());
    fake.0.borrow_mut().refuses = false;
    mitigator.turn(Timestamp(4));
    assert_eq!(fake.on("eth0").len(), 3);
    assert_eq!(mitigator.status().state, MitigationState::Undone);
}

#[test]
fn without_a_place_for_the_record_nothing_is_switched() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let fake = Fake::with(&["eth0"]);
    let mut mitigator = start(dir.path(), &fake);
    // Where the new one would be written is a directory.
    std::fs::create_dir(dir.path().join("mitigate.new")).expect("mkdir");
    mitigator.met(death(), Timestamp(1));
    mitigator.turn(Timestamp(2));
    assert_eq!(fake.on("eth0").len(), 3);
    let problem = mitigator.status().problem.expect("a problem");
    assert!(problem.contains("--state-dir"), "{problem}");
}

#[test]
fn what_a_killed_agent_left_is_cleared_where_none_is_to_do_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fake = Fake::with(&["eth0"]);
    let mut mitigator = start(dir.path(), &fake);
    mitigator.met(death(), Timestamp(1));
    mitigator.turn(Timestamp(2));
    drop(mitigator);
    clear(dir.path(), BOOT, &mut fake).expect("undone");
    assert_eq!(fake.on("eth0").len(), 3);
    assert_eq!(known(dir.path(), BOOT), None);
    clear(dir.path(), BOOT, &mut fake).expect("nothing to do");
}

/// What may happen to an agent and its devices.
#[derive(Clone, Debug)]
enum Step {
    Met,
    Turn,
    Uplinks(Vec<String>),
    /// It is killed, in the midst of so many calls to the kernel, and starts again.
    Killed(u32),
    Stop,
    Undo,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = prop::sample::select(vec!["eth0", "eth1", "gone"]);
    let step = prop_oneof![
        Just(Step::Met),
        Just(Step::Turn),
        prop::collection::vec(name.prop_map(str::to_owned), 0..3).prop_map(Step::Uplinks),
        (0..3_u32).prop_map(Step::Killed),
        Just(Step::Stop),
        Just(Step::Undo),
    ];
    prop::collection::vec(step, 0..24)
}

proptest! {
    // Each of them waits for a disk, often.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens, what was on before is on again once it is undone.
    #[test]
    fn an_undo_brings_back_what_was(steps in steps(), fixed in any::<bool>()) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut fake = Fake::with(&["eth0", "eth1"]);
        if fixed {
            fake.0.borrow_mut().fixed.insert("tx-tcp-segmentation".into());
        }
        let before = fake.all();
        let mut mitigator = start(dir.path(), &fake);
        for (at, step) in steps.into_iter().enumerate() {
            let now = Timestamp(at as u64);
            match step {
                Step::Met => mitigator.met(death(), now),
                Step::Turn => mitigator.turn(now),
                Step::Uplinks(names) => mitigator.set_uplinks(names),
                Step::Killed(calls) => {
                    fake.0.borrow_mut().left = Some(calls);
                    mitigator.turn(now);
                    fake.0.borrow_mut().left = None;
                    mitigator = start(dir.path(), &fake);
                }
                Step::Stop => mitigator.stop(),
                Step::Undo => {
                    undo(dir.path(), BOOT, &mut fake, now).expect("a disk");
                }
            }
            // Never is anything on that was off.
            for (name, (_, on)) in fake.all() {
                prop_assert!(on.is_subset(&before[&name].1), "{name}: {on:?}");
            }
        }
        undo(dir.path(), BOOT, &mut fake, Timestamp(99)).expect("a disk");
        prop_assert_eq!(fake.all(), before);
    }
}
