use std::io::Read;
fn main() {
    for f in std::env::args().skip(1) {
        let mut b = Vec::new();
        std::fs::File::open(&f)
            .unwrap()
            .read_to_end(&mut b)
            .unwrap();
        for r in agent_decode::reports(&b) {
            println!(
                "{f}: {:?} | {} | fault {:?} blamed {:?} mod {:?} at {:?}:{:?} | cond {:?} | panic {:?} | rel {:?} {:?} {:?} | cpu {:?} pid {:?} comm {:?} | frames {} {:?} | corrupted {:?} | {}",
                r.kind,
                r.title,
                r.fault_function,
                r.blamed_function,
                r.module,
                r.file,
                r.file_line,
                r.condition,
                r.panic,
                r.kernel_release,
                r.kernel_release_from,
                r.distribution,
                r.cpu,
                r.pid,
                r.comm,
                r.frames.len(),
                r.frames
                    .iter()
                    .take(3)
                    .map(|f| f.function.as_str())
                    .collect::<Vec<_>>(),
                r.corrupted,
                r.fingerprint
            );
        }
    }
}
