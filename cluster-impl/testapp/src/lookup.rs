//! Names to IPv4 addresses by the pod's `/etc/resolv.conf`, over UDP.
//!
//! A static binary has no name service of the C library, so it asks by itself: search domains and
//! `ndots` are honoured, TCP and IPv6 are not.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::UdpSocket;

const TIMEOUT: Duration = Duration::from_secs(2);
const TRIES: u16 = 2;

#[derive(Debug, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    ndots: usize,
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut resolver = Self { servers: Vec::new(), searches: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => {
                    let mut dots = words.filter_map(|word| word.strip_prefix("ndots:"));
                    resolver.ndots = dots.next_back().and_then(|n| n.parse().ok()).unwrap_or(1);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The full names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let searched = self.searches.iter().map(|domain| format!("{name}.{domain}"));
        let mut names: Vec<_> = searched.collect();
        let first = name.matches('.').count() >= self.ndots;
        names.insert(if first { 0 } else { names.len() }, name.to_owned());
        names
    }
}

/// The IPv4 addresses of a name.
pub async fn addresses(name: &str) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string("/etc/resolv.conf").context("cannot read resolv.conf")?;
    let resolver = Resolver::read(&text);
    if resolver.servers.is_empty() {
        bail!("resolv.conf names no server");
    }
    for candidate in resolver.candidates(name) {
        for server in &resolver.servers {
            let server: SocketAddr = format!("{server}:53").parse().context("not an address")?;
            for id in 1..=TRIES {
                match tokio::time::timeout(TIMEOUT, ask(server, id, &candidate)).await {
                    Ok(Ok(found)) if found.is_empty() => break,
                    Ok(Ok(found)) => return Ok(found.iter().map(Ipv4Addr::to_string).collect()),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {}
                }
            }
        }
    }
    bail!("no address for {name}")
}

async fn ask(server: SocketAddr, id: u16, name: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
    let socket =
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("cannot open a socket")?;
    socket.connect(server).await.context("cannot reach the server")?;
    socket.send(&question(id, name)?).await.context("cannot ask")?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).await.context("no answer")?;
    read_answer(id, &answer[..length]).context("the answer makes no sense")
}

/// A question for an A record (RFC 1035, section 4.1).
fn question(id: u16, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        packet.push(length.with_context(|| format!("`{name}` is no name"))?);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    Ok(packet)
}

/// The addresses in an answer; `None` if it is broken or meant for somebody else.
fn read_answer(id: u16, packet: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let number = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    if number(0)? != id {
        return None;
    }
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = skip_name(packet, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = skip_name(packet, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if let (1, Ok(address)) = (kind, <[u8; 4]>::try_from(data)) {
            found.push(Ipv4Addr::from(address));
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            // A pointer to a name elsewhere ends this one.
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_searched_first_and_long_ones_last() {
        let resolver = Resolver::read(
            "nameserver 10.96.0.10\nsearch default.svc.cluster.local cluster.local\noptions ndots:2\n",
        );
        assert_eq!(resolver.servers, ["10.96.0.10"]);
        assert_eq!(
            resolver.candidates("web"),
            ["web.default.svc.cluster.local", "web.cluster.local", "web"]
        );
        assert_eq!(resolver.candidates("a.b.c")[0], "a.b.c");
        assert_eq!(resolver.candidates("a.b.c."), ["a.b.c"]);
    }

    #[test]
    fn addresses_are_read_past_aliases() {
        let mut packet = question(7, "web.example").unwrap();
        packet[2] = 0x81;
        packet[7] = 2;
        // An alias, then an address; both name the question by a pointer.
        packet.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 1, 2, 3]);
        assert_eq!(read_answer(7, &packet), Some(vec![Ipv4Addr::new(10, 1, 2, 3)]));
        assert_eq!(read_answer(8, &packet), None);
        assert_eq!(read_answer(7, &packet[..packet.len() - 1]), None);
    }
}
