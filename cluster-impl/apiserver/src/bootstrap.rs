//! What every cluster has from its first moment: four namespaces, the system's own PriorityClasses, and
//! the Service of the API itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use machinery::kinds::SYSTEM_PRIORITY_CLASSES;
use serde_json::{Value, json};

use crate::allocation;
use crate::config::User;
use crate::server::ApiServer;

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing; tries again until all of it is there.
pub(crate) async fn run(server: &Arc<ApiServer>) {
    let mut wanted: Vec<(&str, Value)> = NAMESPACES
        .iter()
        .map(|name| {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            });
            ("/api/v1/namespaces", namespace)
        })
        .collect();
    for (name, value) in SYSTEM_PRIORITY_CLASSES {
        wanted.push(("/apis/scheduling.k8s.io/v1/priorityclasses", priority_class(name, value)));
    }
    if let Some(address) = allocation::first(&server.config.service_cluster_ip_range) {
        wanted.push(("/api/v1/namespaces/default/services", service(&address)));
    }
    let mut backoff =
        server.env.backoff("bootstrap", Duration::from_millis(250), Duration::from_secs(5));
    for (path, object) in wanted {
        loop {
            let user = User::new("system:apiserver", &["system:masters"]);
            let request = http::Request::builder()
                .method(Method::POST)
                .uri(path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(Bytes::from(object.to_string()))
                .expect("a constant path makes a valid request");
            let code = server.handle(user, request).await.status().as_u16();
            // Already there is as good; so is a store that refuses the object itself for good.
            if code < 500 {
                backoff.reset();
                break;
            }
            tracing::debug!(path, code, "bootstrap waits for the store");
            server.env.sleep(backoff.next_wait()).await;
        }
    }
}

fn priority_class(name: &str, value: i64) -> Value {
    let description = match name {
        "system-node-critical" => {
            "Used for system critical pods that must not be moved from their current node."
        }
        _ => {
            "Used for system critical pods that must run in the cluster, but can be moved to \
             another node if necessary."
        }
    };
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
        "value": value, "description": description,
    })
}

fn service(address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}
