//! Defaults of a pod's spec, on its own or in a workload's template.

use serde_json::{Value, json};

use super::{absent, each, empty, inside, part, zero};

/// Mode 0644, the default of files from volumes.
const FILE_MODE: i64 = 0o644;

/// Sets the defaults of the pod's spec in a workload's `spec.template`.
pub fn template(workload_spec: &mut Value) {
    if let Some(template) = part(workload_spec, "template")
        && let Some(spec) = part(template, "spec")
    {
        pod_spec(spec);
    }
}

/// Sets the defaults of a pod's spec that templates get, too.
pub fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    zero(spec, "restartPolicy", "Always");
    zero(spec, "dnsPolicy", "ClusterFirst");
    zero(spec, "schedulerName", "default-scheduler");
    absent(spec, "terminationGracePeriodSeconds", 30);
    absent(spec, "securityContext", empty());
    service_account(spec);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for one in each(spec, list) {
            container(one);
        }
    }
    for one in each(spec, "volumes") {
        volume(one);
    }
}

/// Sets the defaults that only a pod gets: requests from limits, host ports, service links.
pub fn pod_only(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    absent(spec, "enableServiceLinks", true);
    let host_network = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for one in each(spec, list) {
            for port in each(one, "ports").filter(|_| host_network) {
                let number = port["containerPort"].clone();
                zero(port, "hostPort", number);
            }
            let Some(limits) = one["resources"]["limits"].as_object().cloned() else { continue };
            absent(&mut one["resources"], "requests", empty());
            for (name, limit) in limits {
                absent(&mut one["resources"]["requests"], &name, limit);
            }
        }
    }
}

/// The old name of the field and the new one say the same.
fn service_account(spec: &mut Value) {
    let old = spec["serviceAccount"].clone();
    if !old.is_null() {
        zero(spec, "serviceAccountName", old);
    }
    if let Some(name) = spec["serviceAccountName"].as_str().filter(|name| !name.is_empty()) {
        spec["serviceAccount"] = name.into();
    }
}

fn container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    let policy = pull_policy(container["image"].as_str());
    zero(container, "imagePullPolicy", policy);
    zero(container, "terminationMessagePath", "/dev/termination-log");
    zero(container, "terminationMessagePolicy", "File");
    absent(container, "resources", empty());
    for port in each(container, "ports") {
        zero(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        if let Some(from) = inside(variable, "valueFrom")
            && let Some(field) = inside(from, "fieldRef")
        {
            zero(field, "apiVersion", "v1");
        }
    }
    for which in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(one) = inside(container, which) {
            probe(one);
        }
    }
    if let Some(lifecycle) = inside(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = inside(lifecycle, hook) {
                http_get(handler);
            }
        }
    }
}

/// An image without a version may change any time.
fn pull_policy(image: Option<&str>) -> &'static str {
    match image {
        Some(image) if !is_latest(image) => "IfNotPresent",
        _ => "Always",
    }
}

/// Whether an image reference names no tag, or `latest`. A digest counts as a version.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Value) {
    zero(probe, "timeoutSeconds", 1);
    zero(probe, "periodSeconds", 10);
    zero(probe, "successThreshold", 1);
    zero(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = inside(probe, "grpc") {
        absent(grpc, "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = inside(handler, "httpGet") {
        zero(get, "path", "/");
        zero(get, "scheme", "HTTP");
    }
}

fn volume(volume: &mut Value) {
    let Some(fields) = volume.as_object_mut() else { return };
    if !fields.iter().any(|(name, value)| name != "name" && !value.is_null()) {
        fields.insert("emptyDir".into(), empty());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(one) = inside(volume, source) {
            absent(one, "defaultMode", FILE_MODE);
        }
    }
    volume_source(volume);
    if let Some(downward) = inside(volume, "downwardAPI") {
        downward_items(downward);
    }
    if let Some(projected) = inside(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = inside(source, "serviceAccountToken") {
                absent(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = inside(source, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
    if let Some(ephemeral) = inside(volume, "ephemeral")
        && let Some(template) = inside(ephemeral, "volumeClaimTemplate")
        && let Some(spec) = inside(template, "spec")
    {
        absent(spec, "volumeMode", json!("Filesystem"));
    }
    if let Some(image) = inside(volume, "image") {
        let policy = pull_policy(image["reference"].as_str());
        zero(image, "pullPolicy", policy);
    }
}

/// Sets the defaults of a source that pods and PersistentVolumes have in common.
pub fn volume_source(of: &mut Value) {
    if let Some(host_path) = inside(of, "hostPath") {
        absent(host_path, "type", "");
    }
    if let Some(iscsi) = inside(of, "iscsi") {
        zero(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = inside(of, "rbd") {
        zero(rbd, "pool", "rbd");
        zero(rbd, "user", "admin");
        zero(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = inside(of, "azureDisk") {
        absent(disk, "cachingMode", "ReadWrite");
        absent(disk, "kind", "Shared");
        absent(disk, "fsType", "ext4");
        absent(disk, "readOnly", false);
    }
    if let Some(scale_io) = inside(of, "scaleIO") {
        zero(scale_io, "storageMode", "ThinProvisioned");
        zero(scale_io, "fsType", "xfs");
    }
}

fn downward_items(downward: &mut Value) {
    for item in each(downward, "items") {
        if let Some(field) = inside(item, "fieldRef") {
            zero(field, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_spec_gets_upstreams_defaults() {
        let mut spec = json!({"containers": [{"name": "a", "image": "nginx", "ports": [
            {"containerPort": 80}]}]});
        pod_spec(&mut spec);
        assert_eq!(
            spec,
            json!({
                "containers": [{
                    "name": "a", "image": "nginx", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {},
                "terminationGracePeriodSeconds": 30,
            })
        );
        let once = spec.clone();
        pod_spec(&mut spec);
        assert_eq!(spec, once, "defaulting twice changes nothing");
    }

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("registry:5000/nginx", true),
            ("registry:5000/nginx:1", false),
            ("nginx@sha256:0", false),
            ("nginx:latest@sha256:0", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn probes_volumes_and_requests() {
        let mut spec = json!({
            "containers": [{"name": "a", "image": "x:1",
                "livenessProbe": {"httpGet": {"port": 80}},
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "s"}},
                {"name": "h", "hostPath": {"path": "/x"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            "serviceAccount": "robot",
        });
        pod_spec(&mut spec);
        pod_only(&mut spec);
        assert_eq!(
            spec["containers"][0]["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(
            spec["containers"][0]["resources"]["requests"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
        assert_eq!(spec["volumes"][0], json!({"name": "e", "emptyDir": {}}));
        assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][2]["hostPath"]["type"], "");
        let token = &spec["volumes"][3]["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(token["expirationSeconds"], 3600);
        assert_eq!(spec["serviceAccountName"], "robot");
        assert_eq!(spec["enableServiceLinks"], true);
    }

    #[test]
    fn host_network_ports_are_host_ports() {
        let mut spec = json!({"hostNetwork": true, "containers": [
            {"name": "a", "image": "x", "ports": [{"containerPort": 80}]}]});
        pod_spec(&mut spec);
        assert_eq!(
            spec["containers"][0]["ports"][0].get("hostPort"),
            None,
            "a template's may stay"
        );
        pod_only(&mut spec);
        assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
    }
}
