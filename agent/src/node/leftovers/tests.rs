use std::fs::File;
use std::time::SystemTime;

use agent_core::model::BootId;

use super::*;

const BEFORE: BootId = BootId([1; 16]);
/// When the boot before began, and this one, in seconds.
const BEGAN: (u64, u64) = (1_700_000_000, 1_700_009_000);

struct Place {
    _dir: tempfile::TempDir,
    settings: Settings,
}

impl Place {
    fn new(delete: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = Settings {
            pstore: Some(dir.path().join("pstore")),
            archive: Some(dir.path().join("archive")),
            crash: vec![dir.path().join("crash")],
            delete,
            state: dir.path().join("state"),
        };
        Self {
            _dir: dir,
            settings,
        }
    }

    fn pstore(&self, name: &str) -> PathBuf {
        self.settings.pstore.as_ref().expect("set").join(name)
    }

    fn archive(&self, name: &str) -> PathBuf {
        self.settings.archive.as_ref().expect("set").join(name)
    }

    /// An agent that has looked until nothing changed any more.
    fn agent(&self) -> Leftovers {
        let before = Before {
            boot: BEFORE,
            began: Timestamp(BEGAN.0 * 1_000),
        };
        let began = Timestamp(BEGAN.1 * 1_000);
        let mut agent = Leftovers::new(self.settings.clone(), Some(before), began);
        look(&mut agent);
        agent
    }
}

fn look(agent: &mut Leftovers) {
    for _ in 0..3 {
        agent.look(Instant::now());
    }
}

/// Writes a file, modified this second.
fn write(path: &Path, at_s: u64, text: &[u8]) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
    fs::write(path, text).expect("written");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at_s);
    let file = File::options().append(true).open(path).expect("a file");
    file.set_modified(at).expect("a time");
}

fn records(agent: &Leftovers) -> Vec<&Record> {
    agent.pending.values().map(|p| &p.record).collect()
}

const PANIC: &[u8] = b"Panic#1 Part1\n<0>[ 9.000000] Kernel panic - not syncing: x\n";

#[test]
fn a_record_is_of_the_boot_before_only_if_it_was_written_in_it() {
    for (at, boot) in [
        (BEGAN.0 + 60, Some(BEFORE)),
        (BEGAN.1 - 1, Some(BEFORE)),
        (BEGAN.1 + 3, Some(BEFORE)),
        (BEGAN.0 - 60, None),
        // No time of its own: it is that of the mount.
        (BEGAN.1 + 60, None),
    ] {
        let place = Place::new(false);
        write(&place.pstore("dmesg-ramoops-0"), at, PANIC);
        let agent = place.agent();
        let [record] = records(&agent)[..] else {
            panic!("one at {at}");
        };
        assert_eq!(record.boot, boot, "{at}");
        assert_eq!(
            (record.kind, record.channel),
            (RecordKind::Panic, Channel::Pstore)
        );
        assert_eq!(
            record.text,
            "<0>[ 9.000000] Kernel panic - not syncing: x\n"
        );
    }
    // An oops of this boot, which goes on.
    let place = Place::new(false);
    write(
        &place.pstore("dmesg-ramoops-0"),
        BEGAN.1 + 60,
        b"Oops#1 Part1\nx\n",
    );
    let agent = place.agent();
    assert!(records(&agent).is_empty());
    assert_eq!(agent.left_out.own, 1);
}

#[test]
fn it_is_sent_until_a_receipt_comes_and_never_after_that() {
    let place = Place::new(false);
    write(&place.pstore("dmesg-erst-1"), BEGAN.0 + 60, PANIC);
    let mut agent = place.agent();
    let start = Instant::now() + Duration::from_secs(60);
    let mut sent = Vec::new();
    for s in 0..3_600 {
        let now = start + Duration::from_secs(s);
        if agent.due(now).count() == 1 {
            sent.push(s);
        }
    }
    assert_eq!(sent[..5], [0, 1, 3, 7, 15]);
    assert!(sent.windows(2).all(|w| w[1] - w[0] <= 300), "{sent:?}");

    agent.arrived(RecordId([9; 32]));
    assert_eq!(agent.pending.len(), 1, "a receipt for something else");
    let id = *agent.pending.keys().next().expect("one");
    agent.arrived(id);
    assert!(agent.pending.is_empty());
    // Nothing was to be deleted.
    assert!(place.pstore("dmesg-erst-1").exists());
    assert!(records(&place.agent()).is_empty(), "known after a restart");
}

#[test]
fn what_a_collector_has_is_deleted_from_pstore_if_wanted_and_from_nowhere_else() {
    let place = Place::new(true);
    let at = BEGAN.0 + 60;
    let part = |n: u32| format!("Panic#1 Part{n}\nline {n}\n").into_bytes();
    write(&place.pstore("dmesg-efi-1"), at, &part(1));
    write(&place.pstore("dmesg-efi-2"), at, &part(2));
    write(&place.pstore("console-ramoops-0"), at, b"a console");
    write(&place.archive("dmesg-erst-1"), at, PANIC);
    let mut agent = place.agent();
    let names = || {
        let listed = files::list(place.settings.pstore.as_ref().expect("set"));
        listed.into_iter().map(|e| e.name).collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 3, "nothing before the receipt");
    let ids: Vec<RecordId> = agent.pending.keys().copied().collect();
    assert_eq!(ids.len(), 2);
    for id in ids {
        agent.arrived(id);
    }
    assert_eq!(names(), ["console-ramoops-0"]);
    assert!(place.archive("dmesg-erst-1").exists());

    // A backend that gives its record again, to the next agent.
    write(&place.pstore("dmesg-efi-1"), at, &part(1));
    write(&place.pstore("dmesg-efi-2"), at, &part(2));
    place.agent();
    assert_eq!(names(), ["console-ramoops-0"]);
}

#[test]
fn a_state_directory_that_is_lost_costs_a_copy_and_nothing_else() {
    let place = Place::new(true);
    write(&place.pstore("dmesg-erst-1"), BEGAN.0 + 60, PANIC);
    // Where the state directory would be is a file, as good as a full disk.
    fs::write(&place.settings.state, "x").expect("a file");
    let mut agent = place.agent();
    let id = *agent.pending.keys().next().expect("one");
    agent.arrived(id);
    assert!(agent.memory.knows(id), "not sent again by this process");
    assert!(!place.pstore("dmesg-erst-1").exists(), "the receipt holds");
    // And no marker: then nobody says which boot it was.
    write(&place.pstore("dmesg-erst-1"), BEGAN.0 + 60, PANIC);
    let mut agent = Leftovers::new(place.settings.clone(), None, Timestamp(BEGAN.1 * 1_000));
    look(&mut agent);
    assert_eq!(records(&agent)[0].boot, None);
    assert_eq!(
        records(&agent)[0].at,
        Some(Timestamp((BEGAN.0 + 60) * 1_000))
    );
}

#[test]
fn what_systemd_pstore_moved_is_the_same_record() {
    let place = Place::new(false);
    let id = |part: u64| ((BEGAN.0 + 60) * 100 + part) * 1_000 + 1;
    let name = |part| format!("dmesg-efi_pstore-{}", id(part));
    let text = |part: u64| format!("Panic#1 Part{part}\nline {part}\n").into_bytes();
    for part in [1, 2] {
        write(&place.pstore(&name(part)), BEGAN.0 + 60, &text(part));
    }
    let mut agent = place.agent();
    let first = *agent.pending.keys().next().expect("one");
    for part in [1, 2] {
        fs::remove_file(place.pstore(&name(part))).expect("there");
        let to = format!("{}/{}", id(part) / 1_000_000, name(part));
        write(&place.archive(&to), BEGAN.1 + 900, &text(part));
    }
    let both = "Panic#1 Part2\nline 2\nPanic#1 Part1\nline 1\n";
    let whole = format!("{}/dmesg.txt", id(1) / 1_000_000);
    write(&place.archive(&whole), BEGAN.1 + 900, both.as_bytes());
    look(&mut agent);
    assert_eq!(agent.pending.keys().copied().collect::<Vec<_>>(), [first]);
    assert!(agent.pending[&first].files.is_empty(), "none in pstore");
    // By the archive alone: its files have no time, but their names have.
    let agent = place.agent();
    let [record] = records(&agent)[..] else {
        panic!("one");
    };
    assert_eq!((record.boot, RecordId::of(record)), (Some(BEFORE), first));
}

#[test]
fn what_is_put_there_late_is_found_too() {
    let place = Place::new(false);
    let mut agent = place.agent();
    assert!(records(&agent).is_empty());
    let late = place.settings.crash[0].join("202311142200/dmesg.202311142200");
    write(&late, BEGAN.0 + 60, b"Kernel panic - not syncing: x\n");
    look(&mut agent);
    assert_eq!(records(&agent).len(), 1);
}

#[test]
fn a_log_that_systemd_put_together_is_read_where_nothing_else_is_left() {
    let place = Place::new(false);
    let text = "dmesg-erst-2:\nPanic#1 Part2\na\ndmesg-erst-1:\nPanic#1 Part1\nb\n";
    write(
        &place.archive("17000000/dmesg.txt"),
        BEGAN.1 + 9,
        text.as_bytes(),
    );
    let agent = place.agent();
    let [record] = records(&agent)[..] else {
        panic!("one");
    };
    assert_eq!((record.text.as_str(), record.boot), ("a\nb\n", None));
}

#[test]
fn the_dmesg_of_a_crash_kernel_is_found_in_both_layouts() {
    let place = Place::new(false);
    let crash = &place.settings.crash[0];
    let text = b"[ 9.000000] Kernel panic - not syncing: x\n";
    for (name, at) in [
        ("202311142200/dmesg.202311142200", BEGAN.0 + 60),
        (
            "127.0.0.1-2023-11-14-21:00:00/vmcore-dmesg.txt",
            BEGAN.0 - 60,
        ),
        ("202311142200/dump.202311142200", BEGAN.0 + 60),
        ("kexec_cmd", BEGAN.0 + 60),
    ] {
        let text = [text, name.as_bytes()].concat();
        write(&crash.join(name), at, &text);
    }
    let agent = place.agent();
    let mut boots: Vec<_> = records(&agent)
        .iter()
        .map(|r| (r.boot, r.channel))
        .collect();
    boots.sort();
    assert_eq!(
        boots,
        [(None, Channel::Vmcore), (Some(BEFORE), Channel::Vmcore)]
    );
}

#[test]
fn what_cannot_be_read_is_counted_and_what_is_hostile_bounded() {
    let place = Place::new(false);
    let at = BEGAN.0 + 60;
    write(&place.pstore("dmesg-efi-1.enc.z"), at, b"\x78\x9c");
    std::os::unix::fs::symlink("/etc/passwd", place.pstore("dmesg-efi-7")).expect("a link");
    write(
        &place.pstore("dmesg-efi-2"),
        at,
        &vec![b'x'; PART_MAX as usize + 1],
    );
    let agent = place.agent();
    assert!(records(&agent).is_empty());
    let LeftOut {
        compressed,
        unreadable,
        ..
    } = agent.left_out;
    assert_eq!((compressed, unreadable), (1, 1));

    // Bytes that take six each in JSON, and no UTF-8: the end stays, and fits.
    let place = Place::new(false);
    let bytes = [
        &b"Panic#1 Part1\n"[..],
        &[1, 0xff, b'\n'].repeat(60_000),
        b"the end\n",
    ];
    write(&place.pstore("dmesg-efi-1"), at, &bytes.concat());
    let agent = place.agent();
    let record = records(&agent)[0];
    assert!(record.cut && beacon::fits(record));
    assert!(record.text.ends_with("\nthe end\n"));
    assert!(record.text.len() > 8_000, "{}", record.text.len());

    // More than anybody needs: the newest.
    let place = Place::new(false);
    for n in 0..PENDING_MAX as u64 + 4 {
        let text = format!("Panic#1 Part1\n{n}\n");
        write(
            &place.pstore(&format!("dmesg-x-{n}")),
            at + n * 200,
            text.as_bytes(),
        );
    }
    let mut agent = place.agent();
    assert_eq!((agent.pending.len(), agent.left_out.many), (PENDING_MAX, 4));
    assert!(records(&agent).iter().all(|r| r.text != "0\n"));
    for id in agent.pending.keys().copied().collect::<Vec<_>>() {
        agent.arrived(id);
    }
    look(&mut agent);
    let mut others: Vec<&str> = records(&agent).iter().map(|r| r.text.as_str()).collect();
    others.sort_unstable();
    assert_eq!(others, ["0\n", "1\n", "2\n", "3\n"]);
}
