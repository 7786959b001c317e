//! The Services of the cluster, as containers find them in their environment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use machinery::{Object, ObjectKey};
use serde_json::Value;

use crate::pod_spec::{name_of, text};

/// The API's own Service is told to every pod, wherever it is.
const API_NAMESPACE: &str = "default";
const API_NAME: &str = "kubernetes";

/// All Services, as last heard of.
#[derive(Default)]
pub(crate) struct Services {
    all: Mutex<BTreeMap<ObjectKey, Arc<Object>>>,
}

impl Services {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Arc<Object>>> {
        self.all.lock().expect("no code panics while it holds the services")
    }

    pub(crate) fn set(&self, key: &ObjectKey, service: Option<Arc<Object>>) {
        match service {
            Some(service) => drop(self.lock().insert(key.clone(), service)),
            None => drop(self.lock().remove(key)),
        }
    }

    /// What a pod's environment says of them.
    pub(crate) fn variables(&self, pod: &Object) -> BTreeMap<String, String> {
        let wants_links = pod.get("/spec/enableServiceLinks").is_none_or(|value| value != false);
        let all = self.lock();
        let is_api = |key: &ObjectKey| key.namespace == API_NAMESPACE && key.name == API_NAME;
        let api = all.iter().filter(|(key, _)| is_api(key));
        // A Service of the pod's own namespace wins over the API's of the same name.
        let own = all
            .iter()
            .filter(|(key, _)| wants_links && key.namespace == pod.namespace() && !is_api(key));
        let mut variables = BTreeMap::new();
        for (_, service) in api.chain(own) {
            add(&mut variables, service);
        }
        variables
    }
}

fn add(variables: &mut BTreeMap<String, String>, service: &Object) {
    let ip = service.text("/spec/clusterIP");
    if ip.is_empty() || ip == "None" {
        return;
    }
    let ports = service.list("/spec/ports");
    let number = |port: &Value| port["port"].as_i64().unwrap_or_default();
    let prefix = shout(service.name());
    let mut put =
        |suffix: String, value: String| variables.insert(format!("{prefix}_{suffix}"), value);
    put("SERVICE_HOST".to_owned(), ip.to_owned());
    for (place, port) in ports.iter().enumerate() {
        let number = number(port);
        let protocol = match text(port, "protocol") {
            "" => "TCP",
            protocol => protocol,
        };
        let address = format!("{}://{ip}:{number}", protocol.to_lowercase());
        if place == 0 {
            put("SERVICE_PORT".to_owned(), number.to_string());
            put("PORT".to_owned(), address.clone());
        }
        let name = name_of(port);
        if !name.is_empty() {
            put(format!("SERVICE_PORT_{}", shout(name)), number.to_string());
        }
        let link = format!("PORT_{number}_{protocol}");
        put(format!("{link}_PROTO"), protocol.to_lowercase());
        put(format!("{link}_PORT"), number.to_string());
        put(format!("{link}_ADDR"), ip.to_owned());
        put(link, address);
    }
}

fn shout(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(services: &Services, namespace: &str, name: &str, ip: &str, ports: Value) {
        let mut service = Object::new("v1", "Service", namespace, name);
        service.set("/spec", json!({"clusterIP": ip, "ports": ports}));
        services.set(&service.key(), Some(Arc::new(service.clone())));
    }

    #[test]
    fn services_are_found_by_variables() {
        let services = Services::default();
        let https = json!([{"name": "https", "port": 443, "protocol": "TCP"}]);
        service(&services, "default", "kubernetes", "10.96.0.1", https);
        service(&services, "dev", "my-db", "10.96.0.7", json!([{"port": 5432}]));
        service(&services, "dev", "headless", "None", json!([{"port": 1}]));
        service(&services, "other", "web", "10.96.0.8", json!([{"port": 80}]));
        let mut pod = Object::new("v1", "Pod", "dev", "web");
        let all: Vec<String> = services
            .variables(&pod)
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected = [
            "KUBERNETES_PORT=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
            "KUBERNETES_PORT_443_TCP_PORT=443",
            "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
            "MY_DB_PORT=tcp://10.96.0.7:5432",
            "MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432",
            "MY_DB_PORT_5432_TCP_ADDR=10.96.0.7",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
            "MY_DB_SERVICE_HOST=10.96.0.7",
            "MY_DB_SERVICE_PORT=5432",
        ];
        assert_eq!(all, expected);
        // Without links the API is still found.
        pod.set("/spec/enableServiceLinks", false);
        assert_eq!(services.variables(&pod).len(), 8);
        services.set(&ObjectKey::new("default", "kubernetes"), None);
        assert!(services.variables(&pod).is_empty());
    }
}
