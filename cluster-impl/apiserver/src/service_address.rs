//! Where a Service is reached from the API server: its ready endpoints, then its cluster address.
//!
//! The API server need not be on the pod network's Service path, so endpoints come first.

use std::collections::BTreeSet;

use machinery::kinds::{ENDPOINT_SLICE, SERVICE};
use machinery::{Object, ObjectKey, Status};
use serde_json::Value;

use crate::picture::Picture;
use crate::server::ApiServer;

/// So many endpoints of a Service are told.
const ENDPOINTS_MAX: usize = 5;

/// Host and port of a Service's port; why there is none.
pub(crate) async fn resolve(
    server: &ApiServer,
    key: &ObjectKey,
    port: u16,
) -> Result<(String, u16), String> {
    let first = all(server, key, port).await?.into_iter().next();
    first.ok_or_else(|| format!("no endpoints available for service {:?}", key.name))
}

/// All that a Service's port is reached by, in the order in which they should be tried; why there is none.
pub(crate) async fn all(
    server: &ApiServer,
    key: &ObjectKey,
    port: u16,
) -> Result<Vec<(String, u16)>, String> {
    let name = &key.name;
    let told = |status: Status| status.message;
    let service = Picture::get(server, &SERVICE, key).await.map_err(told)?;
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
    if service.text("/spec/type") == "ExternalName" {
        return Ok(vec![(service.text("/spec/externalName").to_owned(), port)]);
    }
    let meant = service.list("/spec/ports").iter().find(|one| one["port"] == port);
    let meant =
        meant.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = meant["name"].as_str().unwrap_or_default();
    let slices = Picture::all(server, &ENDPOINT_SLICE, &key.namespace).await.map_err(told)?;
    let own = slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some(name));
    let ready: BTreeSet<_> = own.flat_map(|slice| endpoints(slice, port_name)).collect();
    let is_selecting = service.map("/spec/selector").is_some_and(|selector| !selector.is_empty());
    if ready.is_empty() && is_selecting {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    let mut found: Vec<_> = ready.into_iter().take(ENDPOINTS_MAX).collect();
    let address = service.text("/spec/clusterIP");
    if !["", "None"].contains(&address) {
        found.push((address.to_owned(), port));
    }
    match found.is_empty() {
        true => Err(format!("no endpoints available for service {name:?}")),
        false => Ok(found),
    }
}

/// The endpoints of a slice that are ready, with its port of that name.
fn endpoints(slice: &Object, name: &str) -> Vec<(String, u16)> {
    let mut ports = slice.list("/ports").iter();
    let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == name);
    let port = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
    let Some(port) = port else { return Vec::new() };
    let ready = slice.list("/endpoints").iter().filter(|one| one["conditions"]["ready"] != false);
    let addresses = ready.flat_map(|one| one["addresses"].as_array().into_iter().flatten());
    addresses.filter_map(Value::as_str).map(|address| (address.to_owned(), port)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, named};

    #[tokio::test(start_paused = true)]
    async fn endpoints_come_before_the_cluster_address() {
        let world = World::new().await;
        let mut service = named("v1", "Service", "hook");
        service["spec"] = json!({"ports": [{"name": "https", "port": 443, "targetPort": 8443}]});
        world.create("/api/v1/namespaces/default/services", service).await;
        let key = ObjectKey::new("default", "hook");
        let (address, port) = resolve(&world.server, &key, 443).await.unwrap();
        assert!(address.starts_with("10.") && port == 443, "{address}");
        assert_eq!(
            resolve(&world.server, &key, 80).await.unwrap_err(),
            "no service port 80 found for service \"hook\""
        );
        let mut slice = named("discovery.k8s.io/v1", "EndpointSlice", "hook-1");
        slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "hook"});
        slice["addressType"] = "IPv4".into();
        slice["ports"] = json!([{"name": "https", "port": 8443, "protocol": "TCP"}]);
        slice["endpoints"] = json!([
            {"addresses": ["10.244.0.4"], "conditions": {"ready": false}},
            {"addresses": ["10.244.0.5"], "conditions": {"ready": true}}]);
        world.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
        world.env.sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(resolve(&world.server, &key, 443).await, Ok(("10.244.0.5".to_owned(), 8443)));
        let gone = ObjectKey::new("default", "gone");
        let why = resolve(&world.server, &gone, 443).await.unwrap_err();
        assert_eq!(why, "service \"gone\" not found");
    }
}
