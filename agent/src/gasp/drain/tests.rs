//! Drain threads on a ring that the test writes as the kernel side would.

use std::fs::File;
use std::mem::offset_of;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use agent_common::segment::check;
use agent_common::{Control, Slot, hold, notice};
use agent_core::model::{Body, BootId, Check, NodeName, Word};

use super::*;
use crate::gasp::protocol::{Frame, Identity, Key};
use crate::kernel::sched;

/// A second, in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// The kernel side: writes to the files that stand for the two BPF arrays.
struct Kernel {
    control: File,
    slots: File,
    head: u64,
}

impl Kernel {
    fn new() -> Self {
        let file = |len: usize| {
            let file = tempfile::tempfile().expect("a temporary file");
            file.set_len(len as u64).expect("room for it");
            file
        };
        Self {
            control: file(4096),
            slots: file(RING_SLOTS as usize * size_of::<Slot>()),
            head: 0,
        }
    }

    fn control(&self, offset: usize, value: u64) {
        let bytes = value.to_le_bytes();
        let written = self.control.write_all_at(&bytes, offset as u64);
        written.expect("the control page");
    }

    fn read(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        let read = self.control.read_exact_at(&mut bytes, offset as u64);
        read.expect("the control page");
        u64::from_le_bytes(bytes)
    }

    /// Publishes an entry; gives its number.
    fn entry(&mut self, kind: u16, notice: u16, at_ns: u64, text: &str) -> u64 {
        let seq = self.head;
        let mut slot = [0; size_of::<Slot>()];
        let mut put = |at: usize, bytes: &[u8]| slot[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset_of!(Slot, published), &(seq + 1).to_le_bytes());
        put(offset_of!(Slot, mono_ns), &at_ns.to_le_bytes());
        put(offset_of!(Slot, kind), &kind.to_le_bytes());
        put(offset_of!(Slot, notice), &notice.to_le_bytes());
        put(offset_of!(Slot, len), &(text.len() as u16).to_le_bytes());
        put(offset_of!(Slot, text), text.as_bytes());
        let at = seq % u64::from(RING_SLOTS) * size_of::<Slot>() as u64;
        self.slots.write_all_at(&slot, at).expect("the ring");
        self.head += 1;
        self.control(offset_of!(Control, head), self.head);
        seq
    }

    /// Makes an entry one that is still being written, or finishes it.
    fn publish(&self, seq: u64, published: u64) {
        let at = seq % u64::from(RING_SLOTS) * size_of::<Slot>() as u64;
        let bytes = published.to_le_bytes();
        let written = self.slots.write_all_at(&bytes, at);
        written.expect("the ring");
    }

    fn line(&mut self, at_ns: u64, text: &str) -> u64 {
        self.entry(KIND_LINE, 0, at_ns, text)
    }

    /// A hook fires for the first time.
    fn mark(&mut self, at_ns: u64, what: u16) -> u64 {
        let seq = self.entry(KIND_MARK, what, at_ns, "");
        self.control(offset_of!(Control, declared), seq + 1);
        if notice::is_final(what) {
            self.control(offset_of!(Control, fatal), seq + 1);
        }
        seq
    }
}

/// What a drain thread needs, and the collector that it speaks to.
fn shared(kernel: &Kernel, pace: Pace) -> (Shared, UdpSocket) {
    let collector = UdpSocket::bind("127.0.0.1:0").expect("a port");
    collector.set_nonblocking(true).expect("not to wait");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let to = collector.local_addr().expect("its address");
    socket.connect(to).expect("the way to the collector");
    let identity = Identity {
        node: NodeName::new("w01").expect("a node name"),
        node_uid: None,
        boot: BootId([3; 16]),
        session: 77,
        key_id: 0,
    };
    let key = Key::new(b"a key of thirty-two bytes, or so").expect("32 bytes");
    let shared = Shared {
        ring: CrashRing::map(&kernel.control, &kernel.slots).expect("two mappings"),
        sealer: Sealer::new(&identity, &key),
        next_seq: AtomicU64::new(1),
        links: Mutex::new([None; MAX_COLLECTORS]),
        links_version: AtomicU64::new(0),
        udp: vec![socket],
        pace,
        losses: Losses::default(),
        leads_ns: AtomicU64::new(0),
        survived: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    (shared, collector)
}

fn pace(history: u64, survived: Duration) -> Pace {
    Pace {
        rest: Duration::from_millis(10),
        dying: Duration::from_micros(500),
        history,
        survived,
        hold_max: Duration::from_millis(50),
    }
}

/// Everything that arrived, in order.
fn received(collector: &UdpSocket) -> Vec<Body> {
    let mut buffer = [0; MAX_FRAME];
    let mut bodies = Vec::new();
    while let Ok(len) = collector.recv(&mut buffer) {
        let frame = Frame::parse(&buffer[..len]).expect("a frame");
        bodies.push(frame.body().expect("a body"));
    }
    bodies
}

fn lines(bodies: &[Body]) -> Vec<String> {
    let of = |body: &Body| match body {
        Body::Lines(lines) => lines.iter().map(|line| line.text.clone()).collect(),
        _ => Vec::new(),
    };
    bodies.iter().flat_map(of).collect()
}

fn last_word(bodies: &[Body]) -> &Word {
    let word = |body: &'_ Body| matches!(body, Body::Word(_));
    match bodies.iter().rfind(|body| word(body)) {
        Some(Body::Word(word)) => word,
        _ => panic!("no word in {bodies:?}"),
    }
}

#[test]
fn a_report_longer_than_the_history_is_told_from_its_first_line() {
    for first in [
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [insmod:71]",
        "guest invoked oom-killer: gfp_mask=0x140cca, order=0",
    ] {
        let mut kernel = Kernel::new();
        let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
        let now = sched::monotonic_ns();
        kernel.line(now - 10 * SECOND, "watchdog: BUG: soft lockup - long ago");
        kernel.line(now - SECOND, "of somebody else");
        kernel.line(now, first);
        for n in 0..300 {
            kernel.line(now, &format!("line {n} of the report"));
        }
        kernel.mark(now, notice::PANIC);
        kernel.control(offset_of!(Control, hold_since_ns), now);
        Drain::new(&shared, None, Reserve::open().ok(), None, 0).step();

        let bodies = received(&collector);
        let told = lines(&bodies);
        assert_eq!(told.first().map(String::as_str), Some(first));
        assert_eq!(told.len(), 301);
        let word = &last_word(&bodies).line;
        assert!(word.is_empty() || word == first, "{word}");
        assert_eq!(shared.ring.acked(), kernel.head);
    }
}

#[test]
fn no_more_than_the_history_is_told_where_no_report_came_before() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let now = sched::monotonic_ns();
    for n in 0..100 {
        kernel.line(now, &format!("line {n}"));
    }
    kernel.mark(now, notice::PANIC);
    kernel.line(now, "Kernel panic - not syncing: sysrq triggered crash");
    kernel.control(offset_of!(Control, hold_since_ns), now);
    kernel.control(offset_of!(Control, hold_point), hold::CRASH_KEXEC.into());
    Drain::new(&shared, None, Reserve::open().ok(), None, 0).step();

    let bodies = received(&collector);
    let expected = [
        "line 96",
        "line 97",
        "line 98",
        "line 99",
        "Kernel panic - not syncing: sysrq triggered crash",
    ];
    assert_eq!(lines(&bodies), expected);
    let word = last_word(&bodies);
    assert_eq!(word.line, expected[4]);
    assert_eq!(
        (word.notice, word.held_at),
        (Notice::Panic, HoldPoint::CrashKexec)
    );
}

#[test]
fn a_line_whose_cpu_stands_still_is_passed_and_told_when_it_is_finished() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let mut drain = Drain::new(&shared, None, Reserve::open().ok(), None, 0);
    kernel.mark(sched::monotonic_ns() - SECOND, notice::PANIC);
    let late = kernel.line(sched::monotonic_ns(), "late");
    kernel.publish(late, 0);
    kernel.line(sched::monotonic_ns() - SECOND, "behind it");
    let mut bodies = Vec::new();
    while lines(&bodies).is_empty() {
        drain.step();
        bodies = received(&collector);
    }
    assert_eq!(lines(&bodies), ["behind it"]);
    drain.step();
    assert_eq!(lines(&received(&collector)), [""; 0]);
    kernel.publish(late, late + 1);
    drain.step();
    assert_eq!(lines(&received(&collector)), ["late"]);
    drain.step();
    assert_eq!(lines(&received(&collector)), [""; 0]);
}

#[test]
fn nothing_is_sent_while_the_cpus_are_about_to_be_stopped_and_nothing_is_lost_by_it() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let mut drain = Drain::new(&shared, None, Reserve::open().ok(), Some(1), 1);
    kernel.mark(sched::monotonic_ns() - SECOND, notice::PANIC);
    kernel.line(
        sched::monotonic_ns() - SECOND,
        "Kernel panic - not syncing: why",
    );
    let sending = shared.ring.begin_sending(1);
    assert!(sending.is_some());
    assert_eq!(kernel.read(offset_of!(Control, sending)), 2);
    drop(sending);
    assert_eq!(kernel.read(offset_of!(Control, sending)), 0);
    assert_eq!(kernel.read(offset_of!(Control, sender_cpus)), 0);
    assert_eq!(kernel.read(offset_of!(Control, sender_cpus) + 8), 2);

    kernel.control(offset_of!(Control, closed), 1);
    drain.step();
    assert_eq!(received(&collector), []);
    assert!(!drain.outlet.send(b"a frame"));
    assert_eq!(received(&collector), []);
    assert_eq!(kernel.read(offset_of!(Control, sending)), 0);
    assert_eq!(shared.ring.acked(), 0, "nothing was sent");
    // The next hold waits for what was printed meanwhile.
    kernel.line(sched::monotonic_ns() - SECOND, "another");
    kernel.control(offset_of!(Control, closed), 0);
    // The first thread, which there is not, would have begun by now.
    std::thread::sleep(Duration::from_nanos(BEGINS_NS));
    drain.step();
    let told = lines(&received(&collector));
    assert_eq!(told, ["Kernel panic - not syncing: why", "another"]);
}

#[test]
fn a_hold_that_begins_later_still_waits_for_the_word() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let mut drain = Drain::new(&shared, None, Reserve::open().ok(), None, 0);
    let then = sched::monotonic_ns() - SECOND;
    kernel.mark(then, notice::OOPS);
    kernel.line(then, "of somebody else");
    drain.step();
    assert_eq!(shared.ring.acked(), kernel.head);
    let _ = received(&collector);
    // The panic's mark is there, and its line not yet: its word waits.
    let seq = kernel.entry(KIND_MARK, notice::PANIC, sched::monotonic_ns() + SECOND, "");
    kernel.control(offset_of!(Control, fatal), seq + 1);
    drain.step();
    assert_eq!(received(&collector), []);
    assert!(shared.ring.acked() < kernel.head);
    kernel.control(offset_of!(Control, hold_since_ns), sched::monotonic_ns());
    for _ in 0..3 {
        drain.step();
    }
    assert_eq!(last_word(&received(&collector)).notice, Notice::Panic);
    assert_eq!(shared.ring.acked(), kernel.head);
}

#[test]
fn what_is_kept_for_udp_goes_in_order_and_gives_way_to_what_is_urgent() {
    let kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let mut drain = Drain::new(&shared, None, None, None, 0);
    let numbers = || {
        let mut byte = [0];
        std::iter::from_fn(|| collector.recv(&mut byte).ok().map(|_| byte[0])).collect::<Vec<_>>()
    };
    for number in 0..34 {
        drain.outlet.keep_for_udp(&[number]);
    }
    assert_eq!(numbers(), [0, 1], "there is place for 32");
    assert!(!drain.outlet.flush_udp(|| true));
    assert_eq!(numbers(), [2], "one goes whatever is urgent");
    kernel.control(offset_of!(Control, closed), 1);
    assert!(!drain.outlet.flush_udp(|| false));
    assert_eq!(numbers(), [0; 0]);
    kernel.control(offset_of!(Control, closed), 0);
    assert!(drain.outlet.flush_udp(|| false));
    assert_eq!(numbers(), (3..34).collect::<Vec<u8>>());
    assert!(drain.outlet.flush_udp(|| true), "nothing is left");
}

#[test]
fn the_second_thread_says_the_first_word_and_leaves_the_rest_unless_the_first_stands_still() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let now = sched::monotonic_ns();
    kernel.mark(now, notice::PANIC);
    kernel.line(now, "Kernel panic - not syncing: sysrq triggered crash");
    kernel.control(offset_of!(Control, hold_since_ns), now);
    let mut second = Drain::new(&shared, None, Reserve::open().ok(), Some(1), 1);
    // It may be about to begin, for which the second waits without letting go of its CPU;
    // and then has just sent something.
    for (leads_ns, pause) in [(0, Duration::ZERO), (now + SECOND, shared.pace.dying)] {
        shared.leads_ns.store(leads_ns, Ordering::Relaxed);
        assert_eq!(second.step(), pause);
        assert_eq!(shared.ring.acked(), 0);
    }
    std::thread::sleep(Duration::from_nanos(BEGINS_NS));
    shared.leads_ns.store(now - LEADS_NS, Ordering::Relaxed);
    second.step();
    let bodies = received(&collector);
    let words = bodies.iter().filter(|body| matches!(body, Body::Word(_)));
    assert_eq!(
        words.count(),
        2,
        "the first one, once, and the last: {bodies:?}"
    );
    assert_eq!(last_word(&bodies).notice, Notice::Panic);
    assert_eq!(lines(&bodies).len(), 1, "{bodies:?}");
    assert_eq!(shared.ring.acked(), kernel.head);

    // What the first one does says that it goes on.
    Drain::new(&shared, None, Reserve::open().ok(), None, 0).step();
    assert!(shared.leads_ns.load(Ordering::Relaxed) >= now);
}

#[test]
fn a_mark_that_is_seen_late_still_has_its_line() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let then = sched::monotonic_ns() - 10 * SECOND;
    let line = "watchdog: Watchdog detected hard LOCKUP on cpu 1";
    kernel.line(then, line);
    kernel.mark(then, notice::HARD_LOCKUP);
    kernel.line(
        then + 9 * SECOND,
        "watchdog: BUG: soft lockup - CPU#1 stuck for 9s!",
    );
    Drain::new(&shared, None, Reserve::open().ok(), None, 0).step();
    assert_eq!(last_word(&received(&collector)).line, line);
}

#[test]
fn nothing_goes_before_the_first_word_which_waits_for_its_line_a_little() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    let mut drain = Drain::new(&shared, None, Reserve::open().ok(), None, 0);
    kernel.line(sched::monotonic_ns() - SECOND, "sysrq: Trigger a crash");
    // A clock that this test cannot outrun: the mark is not old yet.
    kernel.mark(sched::monotonic_ns() + SECOND, notice::PANIC);
    assert_eq!(drain.step(), shared.pace.dying);
    assert_eq!(received(&collector), []);
    kernel.line(
        sched::monotonic_ns(),
        "Kernel panic - not syncing: sysrq triggered crash",
    );
    drain.step();
    let bodies = received(&collector);
    assert!(matches!(bodies[0], Body::Word(_)), "{bodies:?}");
    assert_eq!(
        lines(&bodies[1..]).first().map(String::as_str),
        Some("sysrq: Trigger a crash")
    );
}

#[test]
fn a_thread_keeps_its_cpu_while_another_dies_and_never_the_dying_one() {
    let mut kernel = Kernel::new();
    let (shared, _collector) = shared(&kernel, pace(4, Duration::from_secs(3)));
    kernel.mark(sched::monotonic_ns(), notice::PANIC);
    kernel.control(offset_of!(Control, dying_cpu), 1);
    for (cpu, expected) in [
        (Some(0), Duration::ZERO),
        (Some(1), shared.pace.dying),
        // There is but one.
        (None, shared.pace.dying),
    ] {
        let mut drain = Drain::new(&shared, None, None, cpu, 0);
        assert_eq!(drain.step(), expected, "{cpu:?}");
    }
}

#[test]
fn an_oops_after_which_nothing_happens_was_survived_and_the_next_is_told_anew() {
    let mut kernel = Kernel::new();
    let (shared, collector) = shared(&kernel, pace(4, Duration::ZERO));
    let mut drain = Drain::new(&shared, None, Reserve::open().ok(), None, 0);
    for text in ["BUG: the first", "BUG: the second"] {
        let now = sched::monotonic_ns();
        kernel.mark(now, notice::OOPS);
        kernel.line(now - SECOND / 2, text);
        assert_eq!(drain.step(), shared.pace.rest);
        let bodies = received(&collector);
        assert_eq!(last_word(&bodies).line, text);
        assert_eq!(bodies.last(), Some(&Body::Survived));
        assert_eq!(shared.ring.declared(), None);
        drain.step();
        assert_eq!(received(&collector), []);
    }
    assert_eq!(shared.survived.load(Ordering::Relaxed), 2);
}

#[test]
fn the_kernel_side_s_numbers_are_the_wire_s() {
    for known in Notice::ALL {
        assert_eq!(
            notice::is_final(known as u16),
            known.is_final(),
            "{known:?}"
        );
    }
    let notices = [
        (notice::OOPS, Notice::Oops),
        (notice::PANIC, Notice::Panic),
        (notice::RESTART, Notice::Restart),
        (notice::HALT, Notice::Halt),
        (notice::POWER_OFF, Notice::PowerOff),
        (notice::KEXEC, Notice::Kexec),
        (notice::EMERGENCY_RESTART, Notice::EmergencyRestart),
        (notice::SOFT_LOCKUP, Notice::SoftLockup),
        (notice::HUNG_TASK, Notice::HungTask),
        (notice::RCU_STALL, Notice::RcuStall),
        (notice::OUT_OF_MEMORY, Notice::OutOfMemory),
        (notice::HARD_LOCKUP, Notice::HardLockup),
        (notice::PREDICTION, Notice::Prediction),
    ];
    assert_eq!(notices.len(), Notice::ALL.len());
    for (number, expected) in notices {
        assert_eq!(Notice::from_wire(number), Some(expected));
    }
    let points = [
        (0, HoldPoint::None),
        (hold::CRASH_KEXEC, HoldPoint::CrashKexec),
        (hold::CRASH_STOP, HoldPoint::CrashStop),
        (hold::STOP_OTHERS, HoldPoint::StopOthers),
        (hold::RESET, HoldPoint::Reset),
        (hold::ORDER, HoldPoint::Order),
        (hold::PREDICTION, HoldPoint::Prediction),
    ];
    assert_eq!(points.len(), HoldPoint::ALL.len());
    for (number, expected) in points {
        assert_eq!(HoldPoint::from_wire(number), expected);
    }
    let checks = [
        (check::HEAD_TOO_LONG, Check::HeadTooLong),
        (check::TOO_SHORT, Check::TooShort),
        (check::EMPTY, Check::Empty),
        (check::NOT_IN_A_PAGE, Check::NotInAPage),
    ];
    assert_eq!(checks.len(), Check::ALL.len());
    for (number, expected) in checks {
        assert_eq!(Check::from_wire(number), Some(expected));
    }
    let contexts = [
        (agent_common::CONTEXT_UNKNOWN, Context::Unknown),
        (agent_common::CONTEXT_PROCESS, Context::Process),
        (agent_common::CONTEXT_SOFTIRQ, Context::Softirq),
        (agent_common::CONTEXT_HARDIRQ, Context::Hardirq),
        (agent_common::CONTEXT_NMI, Context::Nmi),
    ];
    assert_eq!(contexts.len(), Context::ALL.len());
    for (number, expected) in contexts {
        assert_eq!(Context::from_wire(number), expected);
    }
}
