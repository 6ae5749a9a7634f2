//! Any datagrams from any sources: nobody proves them, so they may do nothing but be
//! counted and bounded.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use agent_core::model::{NodeName, Timestamp};
use lastgasp::channels::netconsole::{Addresses, Collector, Counters};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagrams: Vec<(u8, u8, &[u8])>| {
    let addresses = Arc::new(Addresses::new(4));
    let counters = Arc::new(Counters::default());
    let mut collector = Collector::new(Arc::clone(&addresses), Arc::clone(&counters));
    let mut now = 0;
    for (source, pause, datagram) in &datagrams {
        let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, *source));
        let node = NodeName::new("w01").expect("a name");
        addresses.learn(
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            &node,
            Timestamp(now),
        );
        now += u64::from(*pause) * 100;
        collector.take(datagram, source, Timestamp(now));
        for heard in collector.lines(Timestamp(now)) {
            assert!(heard.node == node);
        }
    }
});
