//! Frames, as a link brings them to a node: written to the device, past the sender's own network, so that
//! what is measured is what the nodes do with them.

use super::{
    client::as_fast_as_it_goes,
    order::{DRAIN, Report},
};
use anyhow::{Context as _, Result, bail};
use datapath_common::checksum::fold;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket,
    },
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

/// The outside's device.
const DEVICE: &str = "eth0";
/// Frames between two looks at the clock.
const BATCH: u64 = 64;
/// How long the kernel may take to find its neighbour.
const PATIENCE: Duration = Duration::from_secs(5);
/// Payload in bytes: with its headers the smallest frame that Ethernet has.
const PAYLOAD: usize = 18;

/// Sends the frame of a datagram again and again, and counts how often.
pub(super) fn send(to: SocketAddr, whole: Duration) -> Result<Report> {
    let SocketAddr::V4(to) = to else { bail!("frames are of IPv4") };
    let link = link()?;
    let frame = frame(&link, to)?;
    let family = AddressFamily::Packet;
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .context("open a packet socket")?;
    Ok(as_fast_as_it_goes(whole, BATCH, || {
        sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty())
    }))
}

/// The address of the device itself.
fn link() -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|device| device.interface_name == DEVICE)
        .filter_map(|device| device.address)
        .filter(|address| address.family() == Some(AddressFamily::Packet))
        .find_map(|address| address.as_link_addr().copied())
        .with_context(|| format!("no device {DEVICE}"))
}

/// A datagram in its frame. Ports, addresses and length stay the same, and so do the checksums.
fn frame(link: &LinkAddr, to: SocketAddrV4) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let SocketAddr::V4(from) = socket.local_addr()? else { bail!("not IPv4") };
    let there = neighbour(&socket, *to.ip())?;
    let length = (8 + PAYLOAD) as u16;
    let mut datagram = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    datagram.extend([length.to_be_bytes(), [0; 2]].concat());
    datagram.extend([0; PAYLOAD]);
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let pseudo = [&addresses[..], &[0, 17], &length.to_be_bytes(), &datagram].concat();
    datagram[6..8].copy_from_slice(&checksum(&pseudo));
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(addresses);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    let here = link.addr().context("no MAC address")?;
    Ok([&there[..], &here, &[8, 0], &ip, &datagram].concat())
}

/// The MAC address of a neighbour, which the kernel finds when it has something to send there.
fn neighbour(socket: &UdpSocket, ip: Ipv4Addr) -> Result<[u8; 6]> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        // A datagram more, to a port that takes them.
        socket.send(&[]).with_context(|| format!("send to {ip}:{DRAIN}"))?;
        let table = fs::read_to_string("/proc/self/net/arp")?;
        if let Some(mac) = find(&table, ip) {
            return Ok(mac);
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("{ip} is no neighbour")
}

/// Looks a neighbour up in the kernel's table, by its address in the first and its MAC address in the
/// fourth column.
fn find(table: &str, ip: Ipv4Addr) -> Option<[u8; 6]> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut rows = rows.filter(|row| row.first() == Some(&&*ip.to_string()));
    let bytes = rows.next()?.get(3)?.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let mac: [u8; 6] = bytes.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()?;
    (mac != [0; 6]).then_some(mac)
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u64::from(u16::from_ne_bytes([word[0], word[1]])));
    fold(words.sum()).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_found_in_the_kernels_table() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     172.18.0.3       0x1         0x2         02:00:00:00:01:0a     *        eth0\n\
                     172.18.0.4       0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        assert_eq!(find(table, Ipv4Addr::new(172, 18, 0, 3)), Some([2, 0, 0, 0, 1, 10]));
        assert_eq!(find(table, Ipv4Addr::new(172, 18, 0, 4)), None);
        assert_eq!(find(table, Ipv4Addr::new(172, 18, 0, 5)), None);
    }

    #[test]
    fn a_sum_with_its_checksum_is_nothing() {
        let mut bytes =
            [0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 172, 18, 0, 100, 172, 18, 0, 3];
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum);
        assert_eq!(checksum(&bytes), [0, 0]);
    }
}
