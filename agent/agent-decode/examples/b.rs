#![allow(missing_docs)]
use std::time::Instant;
fn main() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let logs: Vec<Vec<u8>> = std::fs::read_dir(dir).unwrap().map(|e| std::fs::read(e.unwrap().path()).unwrap()).filter(|b| b.len() > 2000 && b.len() < 6000).collect();
    let mut t: Vec<f64> = Vec::new();
    for _ in 0..50 { for l in &logs { let s = Instant::now(); std::hint::black_box(agent_decode::reports(l)); t.push(s.elapsed().as_nanos() as f64 / 1e3); } }
    t.sort_by(f64::total_cmp);
    println!("{} logs, median {:.1} us, p99 {:.1}, mean size {}", logs.len(), t[t.len()/2], t[t.len()*99/100], logs.iter().map(Vec::len).sum::<usize>() / logs.len());
    let mut clean = Vec::new(); let mut i = 0u64;
    while clean.len() < 64 << 20 { i += 1; clean.extend_from_slice(format!("Nov 21 01:40:46 w01 kernel: [{:12.6}] {}\n", i as f64 / 100.0, match i % 5 { 0 => "eth0: renamed from veth5c9e7a1, carrier up, queueing discipline noqueue", 1 => "EXT4-fs (vda1): mounted filesystem with ordered data mode. Quota mode: none.", 2 => "audit: type=1400 audit(1700000000.123:45): apparmor=\"STATUS\" operation=\"profile_load\"", 3 => "IPv6: ADDRCONF(NETDEV_CHANGE): cali1234567890a: link becomes ready", _ => "systemd[1]: Started Session 12345 of User root."}).as_bytes()); }
    let s = Instant::now(); let n = { let mut d = agent_decode::Decoder::default(); for c in clean.chunks(1 << 18) { d.push(c); } d.finish().count() };
    let e = s.elapsed().as_secs_f64(); println!("clean {:.0} MB/s, {n} reports", clean.len() as f64 / 1e6 / e);
}
