//! Frames as one line of text: `10.10.3.5:40000 > 10.200.1.10:80 tcp S`, `[fd00::1]:5 > [fd00::2]:53
//! udp`, `10.10.3.5 > 10.200.1.10 icmp 8/0 id=77`. Building a frame fills in right checksums; describing
//! one fails if a checksum is wrong.

use etherparse::{
    Icmpv4Slice, Icmpv6Slice, IpHeaders, IpNumber, Ipv4Extensions, Ipv6Extensions, NetSlice,
    PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, icmpv4, icmpv6,
};
use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

/// MAC addresses of every frame built here: from the pod to the node.
const SRC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];
const DST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const SCTP: IpNumber = IpNumber::SCTP;

/// The frame that `text` describes, with a payload of eight bytes and a TTL of 64.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    frame_with(text, b"payload!")
}

/// As [`frame`], with a payload of one's own.
pub(crate) fn frame_with(text: &str, payload: &[u8]) -> Vec<u8> {
    let words: Vec<_> = text.split_whitespace().collect();
    let [src, ">", dst, protocol, options @ ..] = words.as_slice() else {
        panic!("not a frame: {text}")
    };
    let ((src, sport), (dst, dport)) = (endpoint(src), endpoint(dst));
    let ethernet = PacketBuilder::ethernet2(SRC_MAC, DST_MAC);
    let ip = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        mixed => panic!("families differ: {mixed:?}"),
    };
    let mut out = Vec::new();
    match *protocol {
        "tcp" => {
            let mut header = TcpHeader::new(sport, dport, 1000, 64_240);
            let flags = options.first().copied().unwrap_or("A");
            header.syn = flags.contains('S');
            header.ack = flags.contains('A');
            header.fin = flags.contains('F');
            header.rst = flags.contains('R');
            ip.tcp_header(header).write(&mut out, payload)
        }
        "udp" => ip.udp(sport, dport).write(&mut out, payload),
        "sctp" => ip.write(&mut out, SCTP, &sctp(sport, dport, payload)),
        "icmp" => {
            let (kind, code) = options[0].split_once('/').expect("type/code");
            let (kind, code) = (kind.parse().expect("a type"), code.parse().expect("a code"));
            let id = options.get(1).and_then(|option| option.strip_prefix("id="));
            let [high, low] = id.map_or([0; 2], |id| u16::to_be_bytes(id.parse().expect("an id")));
            if src.is_ipv4() {
                ip.icmpv4_raw(kind, code, [high, low, 5, 0xdc]).write(&mut out, payload)
            } else {
                ip.icmpv6_raw(kind, code, [high, low, 5, 0xdc]).write(&mut out, payload)
            }
        }
        other => panic!("unknown protocol {other}"),
    }
    .expect("a frame is written");
    out
}

/// An ICMP error from `from` to the source of `quoted`, about it.
pub(crate) fn icmp_error(from: &str, to: &str, kind: &str, quoted: &[u8]) -> Vec<u8> {
    let whole = &quoted[14..];
    frame_with(&format!("{from} > {to} icmp {kind}"), &whole[..whole.len().min(68)])
}

/// An SCTP packet (RFC 9260, 3.1) with `chunks`.
fn sctp(sport: u16, dport: u16, chunks: &[u8]) -> Vec<u8> {
    let mut packet =
        [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[9; 4], &[0; 4], chunks].concat();
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1_u32).wrapping_neg())
        })
    })
}

fn endpoint(text: &str) -> (IpAddr, u16) {
    match text.parse::<SocketAddr>() {
        Ok(socket) => (socket.ip(), socket.port()),
        Err(_) => (text.parse().unwrap_or_else(|_| panic!("not an endpoint: {text}")), 0),
    }
}

/// The frame as text, with its TTL where it is not 64. Panics on a wrong checksum.
pub(crate) fn describe(frame: &[u8]) -> String {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a frame");
    let net = sliced.net.as_ref().expect("an IP packet");
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum");
            (header.source.into(), header.destination.into(), header.time_to_live)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (header.source.into(), header.destination.into(), header.hop_limit)
        }
        NetSlice::Arp(_) => panic!("not an IP packet"),
    };
    let mut text = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            let sum = transport_sum(net, |ip| match ip {
                IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(ip, tcp.payload()).ok(),
                IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, tcp.payload()).ok(),
            });
            assert_eq!(header.checksum, sum, "TCP checksum");
            let flags: String =
                [('S', header.syn), ('F', header.fin), ('R', header.rst), ('A', header.ack)]
                    .into_iter()
                    .filter_map(|(letter, set)| set.then_some(letter))
                    .collect();
            format!(
                "{} > {} tcp {flags}",
                SocketAddr::new(src, header.source_port),
                SocketAddr::new(dst, header.destination_port)
            )
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            if header.checksum != 0 {
                let sum = transport_sum(net, |ip| match ip {
                    IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(ip, udp.payload()).ok(),
                    IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, udp.payload()).ok(),
                });
                assert_eq!(header.checksum, sum, "UDP checksum");
            }
            let mut text = format!(
                "{} > {} udp",
                SocketAddr::new(src, header.source_port),
                SocketAddr::new(dst, header.destination_port)
            );
            if header.checksum == 0 {
                text += " no-checksum";
            }
            text
        }
        Some(TransportSlice::Icmpv4(icmp)) => format!("{src} > {dst} icmp {}", icmpv4(icmp)),
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) else { panic!("ICMPv6 in IPv4") };
            assert!(icmp.is_checksum_valid(src.octets(), dst.octets()), "ICMPv6 checksum");
            format!("{src} > {dst} icmp {}", icmpv6(icmp))
        }
        None if net.ip_payload_ref().is_some_and(|ip| ip.ip_number == SCTP) => {
            let packet = net.ip_payload_ref().expect("a payload").payload;
            let checksum = u32::from_le_bytes(packet[8..12].try_into().expect("four bytes"));
            let bare = [&packet[..8], &[0; 4], &packet[12..]].concat();
            assert_eq!(checksum, crc32c(&bare), "SCTP checksum");
            let port = |at| u16::from_be_bytes([packet[at], packet[at + 1]]);
            format!("{} > {} sctp", SocketAddr::new(src, port(0)), SocketAddr::new(dst, port(2)))
        }
        Some(TransportSlice::Igmp(_)) | None => format!("{src} > {dst} other"),
    };
    if ttl != 64 {
        write!(text, " ttl={ttl}").expect("writing to a string");
    }
    text
}

/// The checksum that the transport header should have.
fn transport_sum(net: &NetSlice<'_>, sum: impl Fn(&IpHeaders) -> Option<u16>) -> u16 {
    let headers = match net {
        NetSlice::Ipv4(ip) => IpHeaders::Ipv4(ip.header().to_header(), Ipv4Extensions::default()),
        NetSlice::Ipv6(ip) => IpHeaders::Ipv6(ip.header().to_header(), Ipv6Extensions::default()),
        NetSlice::Arp(_) => panic!("not an IP packet"),
    };
    sum(&headers).expect("a checksum")
}

fn icmpv4(icmp: &Icmpv4Slice<'_>) -> String {
    let sum = etherparse::checksum::u32_16bit_word::add_slice(0, icmp.slice());
    assert_eq!(etherparse::checksum::u32_16bit_word::ones_complement(sum), 0, "ICMP checksum");
    let text = format!("{}/{}", icmp.type_u8(), icmp.code_u8());
    let about = match icmp.type_u8() {
        icmpv4::TYPE_DEST_UNREACH | icmpv4::TYPE_TIME_EXCEEDED => quote(&icmp.slice()[8..]),
        _ => return text + &id(icmp.slice()),
    };
    format!("{text} about {about}")
}

fn icmpv6(icmp: &Icmpv6Slice<'_>) -> String {
    let text = format!("{}/{}", icmp.type_u8(), icmp.code_u8());
    let about = match icmp.type_u8() {
        icmpv6::TYPE_DST_UNREACH | icmpv6::TYPE_PACKET_TOO_BIG | icmpv6::TYPE_TIME_EXCEEDED => {
            quote(&icmp.slice()[8..])
        }
        _ => return text + &id(icmp.slice()),
    };
    format!("{text} about {about}")
}

/// The identifier of an echo, where it has one.
fn id(icmp: &[u8]) -> String {
    match (icmp[0], u16::from_be_bytes([icmp[4], icmp[5]])) {
        (_, 0) => String::new(),
        (0 | 8 | 128 | 129, id) => format!(" id={id}"),
        _ => String::new(),
    }
}

/// The quoted packet of an ICMP error: its addresses, ports and, in IPv4, its header's checksum.
fn quote(ip: &[u8]) -> String {
    let (src, dst, l4, protocol): (IpAddr, IpAddr, usize, IpNumber) = if ip[0] >> 4 == 4 {
        let (header, _) = etherparse::Ipv4Header::from_slice(ip).expect("a quoted header");
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "quoted IPv4 checksum");
        (header.source.into(), header.destination.into(), 20, header.protocol)
    } else {
        let (header, _) = etherparse::Ipv6Header::from_slice(ip).expect("a quoted header");
        (header.source.into(), header.destination.into(), 40, header.next_header)
    };
    if matches!(protocol, IpNumber::ICMP | IpNumber::IPV6_ICMP) {
        return format!("{src} > {dst} icmp {}/{}{}", ip[l4], ip[l4 + 1], id(&ip[l4..]));
    }
    let port = |at: usize| u16::from_be_bytes([ip[l4 + at], ip[l4 + at + 1]]);
    format!("{} > {}", SocketAddr::new(src, port(0)), SocketAddr::new(dst, port(2)))
}

/// Cuts an IPv4 frame in two fragments, the first with `payload` bytes after the IP header.
pub(crate) fn fragments(whole: &[u8], payload: usize) -> (Vec<u8>, Vec<u8>) {
    let cut = |from: usize, to: usize, word: u16| {
        let (mut header, _) = etherparse::Ipv4Header::from_slice(&whole[14..]).expect("a header");
        header.identification = 77;
        header.dont_fragment = false;
        header.more_fragments = word != 0;
        header.fragment_offset = (from as u16 / 8).try_into().expect("an offset");
        header.total_len = 20 + (to - from) as u16;
        header.header_checksum = header.calc_header_checksum();
        [&whole[..14], &header.to_bytes(), &whole[34 + from..34 + to]].concat()
    };
    (cut(0, payload, 1), cut(payload, whole.len() - 34, 0))
}

/// The same IPv4 frame with four bytes of options (no-operation, RFC 791).
pub(crate) fn with_options(whole: &[u8]) -> Vec<u8> {
    let (mut header, _) = etherparse::Ipv4Header::from_slice(&whole[14..]).expect("a header");
    header.options = [1; 4].into();
    header.total_len += 4;
    header.header_checksum = header.calc_header_checksum();
    [&whole[..14], &header.to_bytes(), &whole[34..]].concat()
}
