//! Where a Service is reached from the API server: one of its ready endpoints, else its cluster address.
//!
//! The API server need not be on the pod network's Service path, so endpoints come first.

use machinery::kinds::{ENDPOINT_SLICE, SERVICE};
use machinery::{Object, ObjectKey, Status};

use crate::picture::Picture;
use crate::server::ApiServer;

/// Host and port of a Service's port; why there is none.
pub(crate) async fn resolve(
    server: &ApiServer,
    key: &ObjectKey,
    port: u16,
) -> Result<(String, u16), String> {
    let told = |status: Status| status.message;
    let service = Picture::get(server, &SERVICE, key).await.map_err(told)?;
    let service = service.ok_or_else(|| format!("service {:?} not found", key.name))?;
    if service.text("/spec/type") == "ExternalName" {
        return Ok((service.text("/spec/externalName").to_owned(), port));
    }
    let ports = service.list("/spec/ports");
    let own = ports.iter().find(|one| one["port"].as_u64() == Some(u64::from(port)));
    let own =
        own.ok_or_else(|| format!("no service port {port} found for service {:?}", key.name))?;
    let name = own["name"].as_str().unwrap_or_default();
    let slices = Picture::all(server, &ENDPOINT_SLICE, &key.namespace).await.map_err(told)?;
    let of_service =
        slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some(&key.name));
    if let Some(found) = of_service.filter_map(|slice| endpoint(slice, name)).next() {
        return Ok(found);
    }
    match service.text("/spec/clusterIP") {
        "" | "None" => Err(format!("no endpoints available for service {:?}", key.name)),
        _ if service.map("/spec/selector").is_some_and(|selector| !selector.is_empty()) => {
            Err(format!("no endpoints available for service {:?}", key.name))
        }
        address => Ok((address.to_owned(), port)),
    }
}

/// The first endpoint of a slice that is ready, and its port of that name.
fn endpoint(slice: &Object, name: &str) -> Option<(String, u16)> {
    let ports = slice.list("/ports").iter();
    let port = ports.filter(|port| port["name"].as_str().unwrap_or_default() == name);
    let port = port.filter_map(|port| u16::try_from(port["port"].as_u64()?).ok()).next()?;
    let ready = |endpoint: &&serde_json::Value| endpoint["conditions"]["ready"] != false;
    let endpoint = slice.list("/endpoints").iter().find(ready)?;
    Some((endpoint["addresses"][0].as_str()?.to_owned(), port))
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
