//! Datagrams that the kernel dropped before anybody read them.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Datagrams that the kernel dropped because the socket's buffer was full,
/// from `/proc/net/udp` (Documentation/networking/proc_net_tcp.rst has the
/// columns); `None` if that cannot be read.
pub(crate) fn kernel_drops(socket: &UdpSocket) -> Option<u64> {
    let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd()))
        .ok()?
        .ino();
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|table| drops_of(&table, inode))
}

/// The column `drops` of the socket with this inode.
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(9);
        let is_ours = columns.next()?.parse() == Ok(inode);
        is_ours.then(|| columns.nth(2)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n  \
            397: 0100007F:0277 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0000000000000000 17\n";
        assert_eq!(drops_of(table, 4242), Some(17));
        assert_eq!(drops_of(table, 4243), None);
        assert_eq!(drops_of("", 4242), None);
    }
}
