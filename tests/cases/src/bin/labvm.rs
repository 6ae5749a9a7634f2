//! temporary
use std::path::PathBuf;
use std::time::{Duration, Instant};
use harness::{cache::Cache, initramfs::{self, File}, kernels, module, vm::{Machine, Vm}};
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let cache = Cache::open()?;
    let kernel = kernels::named(&args[1])?.get(&cache)?;
    let mut files = initramfs::modules(&kernel)?;
    files.push(File::copy("/init", 0o755, &PathBuf::from("target/x86_64-unknown-linux-musl/release/guest"))?);
    files.push(File::copy("/lastgasp", 0o755, &PathBuf::from("target/x86_64-unknown-linux-musl/release/lastgasp"))?);
    files.push(File::copy("/modules/boom.ko", 0o644, &module::boom(&cache, &kernel)?)?);
    files.push(File { path: "/key".into(), mode: 0o600, bytes: b"0123456789abcdef0123456789abcdef\n".to_vec() });
    let m = Machine { image: kernel.image.clone(), files, cpus: 2, memory: 512, append: "quiet".into(), forward: None, limit: Duration::from_secs(60) };
    let t = Instant::now();
    let mut vm = Vm::boot(&m)?;
    println!("up after {:?}", t.elapsed());
    vm.ask("run /lastgasp agent --collector 10.0.2.2:9618 --key-file /key --node-name w01 --ready-file /run/ready")?;
    let r = vm.ask("wait /run/ready 15000");
    println!("ready after {:?} {r:?}", t.elapsed());
    for i in 0..1 { let _ = i; println!("{:?}", vm.ask("read /run/agent.log")); }
    std::thread::sleep(Duration::from_millis(500));
    println!("{} datagrams", vm.datagrams.try_iter().count());
    let t = Instant::now();
    vm.ask(&format!("die {} 1000", args[2]))?;
    let o = vm.finish(Duration::from_secs(8))?;
    println!("ended {} wall {:?}", o.ended, o.wall);
    for (at, l) in o.console.iter().filter(|(at, _)| *at >= t) { println!("{:7.1} {l}", at.duration_since(t).as_secs_f64() * 1e3); }
    for d in &o.datagrams {
        let f = lastgasp::gasp::protocol::Frame::parse(&d.payload);
        match f { Ok(f) => println!("{:7.1} len {} seq {} {:?}", d.at.duration_since(t).as_secs_f64() * 1e3, d.payload.len(), f.seq(), f.body().map(|b| match b { agent_core::model::Body::Lines(l) => format!("{} lines {:?}..{:?}", l.len(), l.first().map(|l| l.text.clone()), l.last().map(|l| l.text.clone())), b => format!("{b:?}") })), Err(e) => println!("{e}") }
    }
    Ok(())
}
