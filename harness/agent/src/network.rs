//! Cuts, and the probes that show them: nft tables that die with their owner, and TCP connections.
//!
//! A cut drops at the receiver, where packets enter its interface, before connection tracking and
//! before bridges: the sender sees silence, never an error. Its table is owned by an interactive `nft`
//! that this process holds by its standard input: nobody else can delete it, and it goes with us.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use shakedown_core::lever::Traffic;

use crate::output::now;

/// `nft` has so long to do what it is told.
const NFT_WITHIN: Duration = Duration::from_secs(5);
/// The most that is read of a health answer.
const ANSWER_BYTES_MAX: u64 = 4096;

/// One cut.
pub struct Cut {
    owner: Child,
    commands: Option<ChildStdin>,
    table: String,
}

/// The cuts of this node, by id.
pub type Cuts = BTreeMap<String, Cut>;

/// What a cut drops.
pub struct CutSpec<'a> {
    /// Names the cut.
    pub id: &'a str,
    /// The address of the interface that drops.
    pub address: &'a str,
    /// Addresses and prefixes of the senders.
    pub sources: &'a [String],
    /// Which packets.
    pub traffic: Traffic,
}

impl Cut {
    /// Makes the cut; answers when the kernel has it.
    pub fn make(spec: &CutSpec<'_>) -> anyhow::Result<Self> {
        ensure!(!spec.sources.is_empty(), "cut {} has no senders", spec.id);
        let device = device_of(spec.address)?;
        let table = table_name(spec.id);
        let commands = commands(&table, &device, spec);
        check(&commands)?;
        let mut owner = Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start nft")?;
        let mut input = owner.stdin.take().context("nft has no standard input")?;
        input.write_all(commands.as_bytes()).context("failed to tell nft")?;
        let cut = Self { owner, commands: Some(input), table };
        let rules = commands.matches("add rule").count();
        let start = now();
        while cut.counters()?.is_none_or(|counters| counters.len() < rules) {
            ensure!(now().duration_since(start) < NFT_WITHIN, "nft did not make {}", cut.table);
            crate::pause(Duration::from_millis(2));
        }
        Ok(cut)
    }

    /// Packets dropped so far; nothing if the cut is not in place.
    pub fn dropped(&self) -> anyhow::Result<Option<u64>> {
        Ok(self.counters()?.map(|counters| counters.iter().sum()))
    }

    fn counters(&self) -> anyhow::Result<Option<Vec<u64>>> {
        let start = now();
        let listed = loop {
            let output = Command::new("nft")
                .args(["-j", "list", "table", "netdev", &self.table])
                .output()
                .context("failed to run nft")?;
            if !output.status.success() {
                return Ok(None);
            }
            // A listing that another change of the tables interrupts is empty or cut short, and nft
            // calls it a success: that is no answer, so it is asked again.
            match serde_json::from_slice::<Value>(&output.stdout) {
                Ok(listed) => break listed,
                Err(error) => ensure!(
                    now().duration_since(start) < NFT_WITHIN,
                    "nft listed {} as no JSON ({error}): {:?}, {:?}",
                    self.table,
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr),
                ),
            }
            crate::pause(Duration::from_millis(2));
        };
        Ok(Some(counters_in(&listed)))
    }

    /// Removes the cut; answers when the kernel has removed it.
    pub fn mend(mut self) -> anyhow::Result<()> {
        // The end of its input ends nft, and that the table.
        drop(self.commands.take());
        self.owner.wait().context("failed to wait for nft")?;
        ensure!(self.dropped()?.is_none(), "table {} outlived its owner", self.table);
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        drop(self.commands.take());
        self.owner.kill().ok();
        self.owner.wait().ok();
    }
}

/// A name that nft takes, and that different ids do not share.
fn table_name(id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let sum = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let short: String = id.chars().map(plain).take(20).collect();
    format!("shk_{short}_{:08x}", sum & 0xffff_ffff)
}

fn commands(table: &str, device: &str, spec: &CutSpec<'_>) -> String {
    let sources = format!("ip saddr {{ {} }}", spec.sources.join(", "));
    let port = match spec.traffic {
        Traffic::All => None,
        Traffic::EtcdPeer => Some(2380),
        Traffic::EtcdClient => Some(2379),
        Traffic::Api => Some(6443),
    };
    let matches = match port {
        None => vec![sources],
        Some(port) => {
            ["dport", "sport"].map(|direction| format!("{sources} tcp {direction} {port}")).to_vec()
        }
    };
    let mut text = format!("add table netdev {table} {{ flags owner; }}\n");
    text += &format!(
        "add chain netdev {table} cut {{ type filter hook ingress device \"{device}\" priority -500; }}\n"
    );
    for matched in matches {
        text += &format!("add rule netdev {table} cut {matched} counter drop\n");
    }
    text
}

/// Lets nft look at the commands without doing them: its interactive mode tells nobody of errors.
fn check(commands: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft")
        .args(["-c", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start nft")?;
    let mut input = child.stdin.take().context("nft has no standard input")?;
    input.write_all(commands.as_bytes()).context("failed to tell nft")?;
    drop(input);
    let output = child.wait_with_output().context("failed to wait for nft")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("nft refuses: {}", String::from_utf8_lossy(&output.stderr).trim())
}

fn counters_in(listed: &Value) -> Vec<u64> {
    let items = listed["nftables"].as_array().into_iter().flatten();
    items
        .filter_map(|item| item["rule"]["expr"].as_array())
        .flatten()
        .filter_map(|part| part["counter"]["packets"].as_u64())
        .collect()
}

/// The interface with this address: its name differs after Docker connected it anew.
fn device_of(address: &str) -> anyhow::Result<String> {
    let wanted: std::net::Ipv4Addr = address.parse().context("the node's address")?;
    let interfaces = nix::ifaddrs::getifaddrs().context("failed to list the interfaces")?;
    let mut found = interfaces.filter(|interface| {
        let socket = interface.address.as_ref().and_then(|socket| socket.as_sockaddr_in());
        socket.is_some_and(|socket| socket.ip() == wanted)
    });
    found
        .next()
        .map(|interface| interface.interface_name)
        .with_context(|| format!("no interface has {address}"))
}

/// Tries to reach a port. A refusal counts: somebody answered.
pub fn reach(address: &str, port: u16, within: Duration) -> (bool, String) {
    let target = match format!("{address}:{port}").parse::<SocketAddr>() {
        Ok(target) => target,
        Err(error) => return (false, format!("{address}:{port}: {error}")),
    };
    match TcpStream::connect_timeout(&target, within) {
        Ok(_) => (true, format!("{target} accepted the connection")),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            (true, format!("{target} refused the connection"))
        }
        Err(error) => (false, format!("{target}: {error}")),
    }
}

/// Asks for a page over plain HTTP. Well if the answer is 200.
pub fn http_health(port: u16, path: &str, within: Duration) -> (bool, String) {
    match http_get(port, path, within) {
        Ok(answer) => {
            let status = answer.lines().next().unwrap_or_default().to_owned();
            (status.split(' ').nth(1) == Some("200"), status)
        }
        Err(error) => (false, format!("127.0.0.1:{port}{path}: {error}")),
    }
}

fn http_get(port: u16, path: &str, within: Duration) -> std::io::Result<String> {
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&target, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn one_rule_for_all_traffic_and_two_for_a_port() {
        let sources = ["10.201.0.12".to_owned(), "10.244.3.0/24".to_owned()];
        let of = |traffic| {
            let spec = CutSpec { id: "x", address: "10.201.0.11", sources: &sources, traffic };
            commands("shk_x", "eth0", &spec)
        };
        insta::assert_snapshot!(of(Traffic::EtcdPeer), @r#"
        add table netdev shk_x { flags owner; }
        add chain netdev shk_x cut { type filter hook ingress device "eth0" priority -500; }
        add rule netdev shk_x cut ip saddr { 10.201.0.12, 10.244.3.0/24 } tcp dport 2380 counter drop
        add rule netdev shk_x cut ip saddr { 10.201.0.12, 10.244.3.0/24 } tcp sport 2380 counter drop
        "#);
        assert_eq!(of(Traffic::All).matches("add rule").count(), 1);
    }

    #[test]
    fn table_names_are_plain_short_and_different() {
        let long = "kill the very long name of a cut";
        let names = [table_name("a.b"), table_name("a-b"), table_name(long)];
        assert_ne!(names[0], names[1]);
        for name in names {
            assert!(name.len() <= 33, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
        }
    }

    #[test]
    fn counters_are_found_in_nft_json() {
        let listed = serde_json::json!({"nftables": [
            {"metainfo": {}}, {"table": {"name": "shk_x"}},
            {"rule": {"expr": [{"match": {}}, {"counter": {"packets": 3, "bytes": 9}}, {"drop": null}]}},
            {"rule": {"expr": [{"counter": {"packets": 4, "bytes": 9}}]}},
        ]});
        assert_eq!(counters_in(&listed), [3, 4]);
    }

    #[test]
    fn a_refused_connection_is_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let second = Duration::from_secs(1);
        assert!(reach("127.0.0.1", port, second).0);
        drop(listener);
        let (ok, detail) = reach("127.0.0.1", port, second);
        assert!(ok && detail.contains("refused"), "{detail}");
        assert!(!reach("nowhere", 1, second).0);
        assert!(!http_health(port, "/healthz", second).0);
    }

    #[test]
    fn an_interface_is_found_by_its_address() {
        assert_eq!(device_of("127.0.0.1").unwrap(), "lo");
        assert!(device_of("203.0.113.7").is_err());
    }
}
