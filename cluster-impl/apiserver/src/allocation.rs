//! Addresses and node ports of Services.
//!
//! Each address is an IPAddress object, each node port a key of its own; they are written and deleted
//! in the transaction that writes or deletes the Service, and only if they are free. So two Services
//! never share one, however many API servers create them at once, and nothing leaks.
//! Limits: one range, of IPv4; further ServiceCIDRs give no addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use env::Env;
use machinery::conditions::seconds;
use machinery::kinds::{IP_ADDRESS, NODE_PORTS, SERVICE};
use machinery::validation::network::{self, parse_cidr};
use machinery::{Cause, Kind, Object, ObjectKey, Status};
use rand::Rng;
use serde_json::{Value, json};
use storage::{KeyRange, Op, RangeRequest};

use crate::codec::encode;
use crate::server::ApiServer;
use crate::{status, storage_key};

const PORTS: &str = "/registry/ranges/servicenodeports/";
/// Addresses at the range's start are left to those who ask for one: a sixteenth, within these bounds.
const STATIC_MIN: u32 = 16;
const STATIC_MAX: u32 = 256;
/// Likewise of node ports: a thirty-second, within these bounds.
const STATIC_PORTS: i64 = 86;

/// What is taken at present.
#[derive(Debug, Default, Clone)]
pub(crate) struct Taken {
    addresses: BTreeSet<String>,
    ports: BTreeSet<i64>,
}

/// Reads what is taken.
pub(crate) async fn taken(server: &ApiServer) -> Result<Taken, Status> {
    let mut taken = Taken::default();
    for key in keys(server, &storage_key::prefix(&IP_ADDRESS)).await? {
        taken.addresses.insert(key);
    }
    for key in keys(server, PORTS).await? {
        taken.ports.extend(key.parse::<i64>());
    }
    Ok(taken)
}

async fn keys(server: &ApiServer, prefix: &str) -> Result<Vec<String>, Status> {
    let asked = RangeRequest::latest(KeyRange::prefix(prefix.as_bytes().to_vec()));
    let found = server.store.range(asked).await.map_err(status::from_store)?;
    let last = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
    Ok(found.kvs.iter().map(|kv| last(&kv.key)).collect())
}

/// Gives a Service the address and the node ports that it needs and does not have.
pub(crate) fn assign(
    env: &Env,
    range: &str,
    taken: &Taken,
    service: &mut Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let held = old.map(Held::of).unwrap_or_default();
    let mut causes = Vec::new();
    address((env, range), taken, service, &held, &mut causes);
    ports(env, taken, service, &held, &mut causes);
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid("", "Service", service.name(), &causes))
}

fn invalid(field: &str, value: &str, why: &str) -> Cause {
    let message = format!("Invalid value: {value}: {why}");
    Cause { reason: "FieldValueInvalid".into(), message, field: field.into() }
}

fn address(
    (env, range): (&Env, &str),
    taken: &Taken,
    service: &mut Object,
    held: &Held,
    causes: &mut Vec<Cause>,
) {
    let wanted = service.text("/spec/clusterIP").to_owned();
    if service.text("/spec/type") == "ExternalName" || wanted == "None" {
        return;
    }
    if service.text("/spec/ipFamilyPolicy") == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(invalid("spec.ipFamilyPolicy", "\"RequireDualStack\"", why));
        return;
    }
    if service.list("/spec/ipFamilies").first().is_some_and(|family| family == "IPv6") {
        let why = "not configured on this cluster";
        causes.push(invalid("spec.ipFamilies[0]", "\"IPv6\"", why));
        return;
    }
    if wanted.is_empty() {
        match free_address(env, range, taken) {
            Some(address) => {
                service.set("/spec/clusterIP", address.as_str());
                service.set("/spec/clusterIPs", json!([address]));
            }
            None => causes.push(invalid(
                "spec.clusterIPs",
                "[]string(nil)",
                "failed to allocate a serviceIP: range is full",
            )),
        }
        return;
    }
    let Ok(address) = wanted.parse::<IpAddr>() else { return };
    let value = format!("[]string{{{wanted:?}}}");
    let why = if held.addresses.contains(&wanted) {
        return;
    } else if !parse_cidr(range).is_some_and(|range| network::contains(range, address)) {
        "the provided network does not match the current range"
    } else if taken.addresses.contains(&wanted) {
        "provided IP is already allocated"
    } else {
        return;
    };
    let why = format!("failed to allocate IP {wanted}: {why}");
    causes.push(invalid("spec.clusterIPs", &value, &why));
}

/// The first address of a range, which is the API's own Service's.
pub(crate) fn first(range: &str) -> Option<String> {
    match network::network(parse_cidr(range)?) {
        IpAddr::V4(first) => Some(Ipv4Addr::from(u32::from(first).wrapping_add(1)).to_string()),
        IpAddr::V6(_) => None,
    }
}

fn free_address(env: &Env, range: &str, taken: &Taken) -> Option<String> {
    let (start, bits) = parse_cidr(range)?;
    let IpAddr::V4(first) = network::network((start, bits)) else { return None };
    // Neither the network's own address nor its broadcast address.
    let count = (1_u64 << (32 - bits)).saturating_sub(2);
    let count = u32::try_from(count).ok().filter(|count| *count > 0)?;
    let reserved = (count / 16).clamp(STATIC_MIN, STATIC_MAX);
    let reserved = if reserved >= count { 0 } else { reserved };
    let offset = env.entropy("service-address").random_range(reserved..count);
    let upper = (offset..count).chain(reserved..offset);
    let mut all = upper
        .chain(0..reserved)
        .map(|offset| Ipv4Addr::from(u32::from(first).wrapping_add(offset + 1)).to_string());
    all.find(|address| !taken.addresses.contains(address))
}

fn ports(env: &Env, taken: &Taken, service: &mut Object, held: &Held, causes: &mut Vec<Cause>) {
    if !needs_ports(service) {
        return;
    }
    let mut used: BTreeSet<i64> = taken.ports.clone();
    // Ports that differ in protocol alone share a node port.
    let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
    let mut list = service.list("/spec/ports").to_vec();
    for (index, port) in list.iter().enumerate() {
        let number = port["nodePort"].as_i64().unwrap_or_default();
        if number == 0 {
            continue;
        }
        if used.contains(&number)
            && !held.ports.contains(&number)
            && !by_port.values().any(|one| *one == number)
        {
            let field = format!("spec.ports[{index}].nodePort");
            let why = "provided port is already allocated";
            causes.push(invalid(&field, &number.to_string(), why));
        }
        by_port.entry(port["port"].as_i64().unwrap_or_default()).or_insert(number);
    }
    used.extend(by_port.values());
    for port in &mut list {
        if port["nodePort"].as_i64().unwrap_or_default() != 0 {
            continue;
        }
        let of = port["port"].as_i64().unwrap_or_default();
        let number = match by_port.get(&of) {
            Some(known) => Some(*known),
            None => free_port(env, &used),
        };
        match number {
            Some(number) if port.is_object() => {
                used.insert(number);
                by_port.insert(of, number);
                port["nodePort"] = number.into();
            }
            Some(_) => {}
            None => {
                let why = "failed to allocate a nodePort: range is full";
                causes.push(invalid("spec.ports[0].nodePort", "0", why));
                return;
            }
        }
    }
    service.set("/spec/ports", list);
    let needs_health = service.text("/spec/type") == "LoadBalancer"
        && service.text("/spec/externalTrafficPolicy") == "Local";
    if needs_health
        && service.integer("/spec/healthCheckNodePort").unwrap_or_default() == 0
        && let Some(number) = free_port(env, &used)
    {
        service.set("/spec/healthCheckNodePort", number);
    }
}

fn needs_ports(service: &Object) -> bool {
    match service.text("/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => {
            service.get("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

fn free_port(env: &Env, used: &BTreeSet<i64>) -> Option<i64> {
    let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
    let start = env.entropy("service-node-port").random_range(first + STATIC_PORTS..=last);
    let upper = (start..=last).chain(first + STATIC_PORTS..start);
    upper.chain(first..first + STATIC_PORTS).find(|port| !used.contains(port))
}

/// What a Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    addresses: BTreeSet<String>,
    ports: BTreeSet<i64>,
}

impl Held {
    fn of(service: &Object) -> Self {
        let mut held = Self::default();
        if service.text("/spec/type") == "ExternalName" {
            return held;
        }
        let all = service.list("/spec/clusterIPs").iter().filter_map(Value::as_str);
        let all = all.chain(std::iter::once(service.text("/spec/clusterIP")));
        held.addresses =
            all.filter(|one| one.parse::<IpAddr>().is_ok()).map(str::to_owned).collect();
        let ports = service.list("/spec/ports").iter().filter_map(|port| port["nodePort"].as_i64());
        let ports = ports.chain(service.integer("/spec/healthCheckNodePort"));
        held.ports = ports.filter(|port| *port != 0).collect();
        held
    }
}

/// What must be written along with a change of a Service: which keys must be free, and the writes.
#[derive(Default)]
pub(crate) struct Along {
    pub(crate) free: Vec<Vec<u8>>,
    pub(crate) ops: Vec<Op>,
}

/// What a change of an object takes and releases; nothing unless it is a Service.
pub(crate) fn along(
    env: &Env,
    kind: &Kind,
    key: &ObjectKey,
    old: Option<&Object>,
    new: Option<&Object>,
) -> Along {
    let mut along = Along::default();
    if kind.id != SERVICE.id {
        return along;
    }
    let before = old.map(Held::of).unwrap_or_default();
    let after = new.map(Held::of).unwrap_or_default();
    for address in before.addresses.difference(&after.addresses) {
        along.ops.push(Op::Delete(KeyRange::key(address_key(address))));
    }
    for port in before.ports.difference(&after.ports) {
        along.ops.push(Op::Delete(KeyRange::key(port_key(*port))));
    }
    for address in after.addresses.difference(&before.addresses) {
        along.free.push(address_key(address));
        let value = encode(&ip_address(env, address, key));
        along.ops.push(Op::Put(address_key(address), value, 0));
    }
    for port in after.ports.difference(&before.ports) {
        along.free.push(port_key(*port));
        along.ops.push(Op::Put(port_key(*port), Bytes::from(key.to_string()), 0));
    }
    along
}

fn address_key(address: &str) -> Vec<u8> {
    storage_key::key(&IP_ADDRESS, &ObjectKey::new("", address))
}

fn port_key(port: i64) -> Vec<u8> {
    format!("{PORTS}{port}").into_bytes()
}

fn ip_address(env: &Env, address: &str, service: &ObjectKey) -> Object {
    let mut object = Object::new("networking.k8s.io/v1", "IPAddress", "", address);
    object.set("/metadata/uid", env.uid());
    object.set("/metadata/creationTimestamp", seconds(env.now()));
    let labels = json!({
        "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    });
    object.set("/metadata/labels", labels);
    let parent = json!({
        "group": "", "resource": "services", "namespace": service.namespace, "name": service.name,
    });
    object.set("/spec/parentRef", parent);
    object
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use http::Method;

    use super::*;
    use crate::Config;
    use crate::testing::{World, named, text};

    const SERVICES: &str = "/api/v1/namespaces/default/services";
    const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

    fn service(name: &str, spec: Value) -> Value {
        let mut service = named("v1", "Service", name);
        service["spec"] = json!({"ports": [{"port": 80}]});
        let members = spec.as_object().unwrap().clone();
        service["spec"].as_object_mut().unwrap().extend(members);
        service
    }

    async fn addresses(world: &World) -> Vec<String> {
        let list = world.get(ADDRESSES).await;
        let items = list["items"].as_array().unwrap().iter();
        items.map(|one| text(&one["metadata"]["name"]).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_given_kept_and_released() {
        let world = World::new().await;
        let created = world.create(SERVICES, service("web", json!({}))).await;
        let address = text(&created["spec"]["clusterIP"]).to_owned();
        assert!(network::contains(parse_cidr("10.96.0.0/12").unwrap(), address.parse().unwrap()));
        assert_eq!(created["spec"]["clusterIPs"], json!([address]));
        let held = world.get(&format!("{ADDRESSES}/{address}")).await;
        assert_eq!(held["spec"]["parentRef"]["name"], "web");
        let path = format!("{SERVICES}/web");
        let patched = world.patch(&path, json!({"metadata": {"labels": {"a": "b"}}})).await;
        assert_eq!(patched["spec"]["clusterIP"], address.as_str());
        world.update(&path, &service("web", json!({}))).await;
        assert_eq!(addresses(&world).await, [address.as_str()]);
        let taken = service("other", json!({"clusterIP": address}));
        let (code, answer) = world.call(Method::POST, SERVICES, &taken).await;
        let why = format!(
            "Service \"other\" is invalid: spec.clusterIPs: Invalid value: []string{{\"{address}\"}}: \
             failed to allocate IP {address}: provided IP is already allocated"
        );
        assert_eq!((code, text(&answer["message"])), (422, why.as_str()));
        world.delete(&path).await;
        assert_eq!(addresses(&world).await, [""; 0]);
        world.create(SERVICES, taken).await;
        let outside = service("outside", json!({"clusterIP": "192.168.0.1"}));
        assert_eq!(world.call(Method::POST, SERVICES, &outside).await.0, 422);
    }

    #[test]
    fn the_apis_own_address_is_the_first() {
        assert_eq!(first("10.96.0.0/12").as_deref(), Some("10.96.0.1"));
        assert_eq!(first("192.168.3.0/24").as_deref(), Some("192.168.3.1"));
        assert_eq!(first("2001:db8::/64"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_no_address_gets_none() {
        let world = World::new().await;
        world.create(SERVICES, service("a", json!({"clusterIP": "None"}))).await;
        let outside = json!({"type": "ExternalName", "externalName": "example.com"});
        let created = world.create(SERVICES, service("b", outside)).await;
        assert_eq!(created["spec"].get("clusterIP"), None);
        world.create(&format!("{SERVICES}?dryRun=All"), service("c", json!({}))).await;
        assert_eq!(addresses(&world).await, [""; 0]);
        let dual = service("d", json!({"ipFamilyPolicy": "RequireDualStack"}));
        assert_eq!(world.call(Method::POST, SERVICES, &dual).await.0, 422);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_small_range_every_address_is_given_once() {
        let config = Config { service_cluster_ip_range: "10.0.0.0/28".into(), ..Config::default() };
        let world = World::with(&[], config).await;
        let bodies: Vec<_> = (0..20).map(|at| service(&format!("s-{at}"), json!({}))).collect();
        let posts = bodies.iter().map(|body| world.call(Method::POST, SERVICES, body));
        let answers = join_all(posts).await;
        let mut given: Vec<_> = answers
            .iter()
            .filter(|(code, _)| *code == 201)
            .map(|(_, body)| text(&body["spec"]["clusterIP"]).to_owned())
            .collect();
        assert_eq!(given.len(), 14, "{answers:?}");
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 14, "no address is given twice");
        assert!(answers.iter().all(|(code, _)| [201, 422].contains(code)));
    }

    #[tokio::test(start_paused = true)]
    async fn node_ports_are_given_and_released() {
        let world = World::new().await;
        let both = json!({"type": "NodePort", "ports": [
            {"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"},
            {"name": "w", "port": 80, "nodePort": 30080}]});
        let created = world.create(SERVICES, service("dns", both.clone())).await;
        let port = |at: usize| created["spec"]["ports"][at]["nodePort"].as_i64().unwrap();
        assert_eq!(port(0), port(1), "one node port for both protocols");
        assert!(NODE_PORTS.contains(&port(0)) && port(2) == 30080);
        let taken = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]});
        let (code, answer) = world.call(Method::POST, SERVICES, &service("b", taken.clone())).await;
        assert_eq!(
            (code, text(&answer["message"])),
            (
                422,
                "Service \"b\" is invalid: \
            spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
            )
        );
        let path = format!("{SERVICES}/dns");
        let inside = world.patch(&path, json!({"spec": {"type": "ClusterIP"}})).await;
        assert_eq!(inside["spec"]["ports"][2].get("nodePort"), None);
        world.create(SERVICES, service("b", taken)).await;
        let again = world.patch(&path, json!({"spec": {"type": "NodePort"}})).await;
        assert_ne!(again["spec"]["ports"][2]["nodePort"], 30080);
        world.delete(&path).await;
        let held = taken_now(&world).await;
        assert_eq!(held.ports, BTreeSet::from([30080]));
    }

    async fn taken_now(world: &World) -> Taken {
        taken(&world.server).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_turns_outward_lets_go_of_its_address() {
        let world = World::new().await;
        world.create(SERVICES, service("web", json!({}))).await;
        let outward = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
        let patched = world.patch(&format!("{SERVICES}/web"), outward).await;
        assert_eq!(patched["spec"].get("clusterIP"), None, "{patched}");
        assert_eq!(addresses(&world).await, [""; 0]);
        let back = json!({"spec": {"type": "ClusterIP", "externalName": null}});
        let patched = world.patch(&format!("{SERVICES}/web"), back).await;
        assert_eq!(addresses(&world).await, [text(&patched["spec"]["clusterIP"])]);
    }
}
