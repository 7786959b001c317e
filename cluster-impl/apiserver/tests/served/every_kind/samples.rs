//! A small object of every kind, with something in it that only that kind has.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

/// The namespace in which all is done.
pub const NAMESPACE: &str = "round";
/// The group of the custom kind.
pub const CUSTOM_GROUP: &str = "round.example.com";

/// The definition of a custom kind.
pub fn custom_definition(plural: &str, group: &str) -> Value {
    let kind = plural[..1].to_uppercase() + plural[1..].trim_end_matches('s');
    json!({
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "size": {"type": "integer", "default": 1},
                        "colours": {"type": "array", "items": {"type": "string"}}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]},
    })
}

/// An object of a kind; numbers make several of them.
pub fn sample(api_version: &str, kind: &str, number: u8) -> Value {
    let name = match kind {
        "APIService" => format!("v1.round{number}.example.com"),
        "CustomResourceDefinition" => format!("gears{number}s.made.example.com"),
        "IPAddress" => format!("10.96.100.{number}"),
        _ => format!("round-{number}"),
    };
    let mut object = json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": {}},
    });
    let rest = match kind {
        "CustomResourceDefinition" => {
            custom_definition(&format!("gears{number}s"), "made.example.com")
        }
        "APIService" => json!({"spec": {
            "group": format!("round{number}.example.com"), "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"name": "none", "namespace": NAMESPACE}, "insecureSkipTLSVerify": true}}),
        _ => content(api_version, kind),
    };
    for (member, value) in rest.as_object().unwrap() {
        if member != "metadata" {
            object[member] = value.clone();
        }
    }
    object
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "round"}},
        "spec": {"containers": [{"name": "main", "image": "round:1"}]}})
}

fn workload() -> Value {
    json!({"replicas": 2, "selector": {"matchLabels": {"app": "round"}}, "template": template()})
}

/// What a kind has beside metadata.
fn content(api_version: &str, kind: &str) -> Value {
    match kind {
        "CertificateSigningRequest"
        | "ClusterRole"
        | "ClusterRoleBinding"
        | "Role"
        | "RoleBinding"
        | "Secret"
        | "ServiceAccount" => identity(kind),
        "CSIDriver"
        | "CSINode"
        | "CSIStorageCapacity"
        | "PersistentVolume"
        | "PersistentVolumeClaim"
        | "StorageClass"
        | "VolumeAttachment" => volume(kind),
        "CronJob"
        | "DaemonSet"
        | "Deployment"
        | "Job"
        | "Pod"
        | "PodTemplate"
        | "ReplicaSet"
        | "ReplicationController"
        | "StatefulSet" => work(kind),
        "Endpoints" | "EndpointSlice" | "Ingress" | "IngressClass" | "IPAddress"
        | "NetworkPolicy" | "Service" | "ServiceCIDR" => network(kind),
        "MutatingWebhookConfiguration"
        | "ValidatingAdmissionPolicy"
        | "ValidatingAdmissionPolicyBinding"
        | "ValidatingWebhookConfiguration" => admission(kind),
        _ => other(api_version, kind),
    }
}

fn identity(kind: &str) -> Value {
    let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let role = |kind: &str| {
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "view"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]})
    };
    match kind {
        "CertificateSigningRequest" => {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, "jane");
            let pem = params.serialize_request(&key).unwrap().pem().unwrap();
            json!({"spec": {"request": STANDARD.encode(pem), "usages": ["client auth"],
                "signerName": "kubernetes.io/kube-apiserver-client"}})
        }
        "ClusterRole" | "Role" => json!({ "rules": [rule] }),
        "ClusterRoleBinding" => role("ClusterRole"),
        "RoleBinding" => role("Role"),
        "Secret" => json!({"type": "Opaque", "data": {"a": STANDARD.encode("1")}}),
        _ => json!({"automountServiceAccountToken": false}),
    }
}

fn volume(kind: &str) -> Value {
    match kind {
        "CSIDriver" => json!({"spec": {"attachRequired": false}}),
        "CSINode" => json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "1"}]}}),
        "CSIStorageCapacity" => json!({"storageClassName": "fast", "capacity": "10Gi"}),
        "PersistentVolume" => json!({"spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/round"}}}),
        "PersistentVolumeClaim" => json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        "StorageClass" => json!({"provisioner": "example.com/disk"}),
        _ => json!({"spec": {"attacher": "disk.example.com", "nodeName": "n-1",
            "source": {"persistentVolumeName": "pv-1"}}}),
    }
}

fn work(kind: &str) -> Value {
    let mut once = template();
    once["spec"]["restartPolicy"] = "Never".into();
    match kind {
        "CronJob" => json!({"spec": {"schedule": "*/5 * * * *",
            "jobTemplate": {"spec": {"template": once}}}}),
        "DaemonSet" => {
            json!({"spec": {"selector": {"matchLabels": {"app": "round"}}, "template": template()}})
        }
        "Job" => json!({"spec": {"completions": 2, "template": once}}),
        "Pod" => json!({"spec": template()["spec"]}),
        "PodTemplate" => json!({"template": template()}),
        "ReplicationController" => json!({"spec": {"replicas": 2, "selector": {"app": "round"},
            "template": template()}}),
        "StatefulSet" => {
            let mut spec = workload();
            spec["serviceName"] = "round".into();
            json!({ "spec": spec })
        }
        _ => json!({"spec": workload()}),
    }
}

fn network(kind: &str) -> Value {
    match kind {
        "Endpoints" => json!({"subsets": [{"addresses": [{"ip": "10.244.0.9"}],
            "ports": [{"port": 80}]}]}),
        "EndpointSlice" => json!({"addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.9"]}], "ports": [{"port": 80}]}),
        "Ingress" => json!({"spec": {"defaultBackend":
            {"service": {"name": "web", "port": {"number": 80}}}}}),
        "IngressClass" => json!({"spec": {"controller": "example.com/ingress"}}),
        "IPAddress" => json!({"spec": {"parentRef":
            {"resource": "services", "namespace": NAMESPACE, "name": "web"}}}),
        "NetworkPolicy" => json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
        "Service" => json!({"spec": {"selector": {"app": "round"}, "ports": [{"port": 80}]}}),
        _ => json!({"spec": {"cidrs": ["10.112.0.0/16"]}}),
    }
}

fn admission(kind: &str) -> Value {
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["nowhere.example.com"],
        "apiVersions": ["v1"], "resources": ["nothings"]});
    match kind {
        "ValidatingAdmissionPolicy" => {
            json!({"spec": {"matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "true"}]}})
        }
        "ValidatingAdmissionPolicyBinding" => {
            json!({"spec": {"policyName": "none", "validationActions": ["Deny"]}})
        }
        _ => json!({"webhooks": [{"name": "a.example.com", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "rules": [rule],
            "clientConfig": {"url": "https://nowhere.example.com"}}]}),
    }
}

fn other(api_version: &str, kind: &str) -> Value {
    match (api_version, kind) {
        ("events.k8s.io/v1", _) => json!({"type": "Normal", "reason": "Made", "note": "made it",
            "action": "Make", "regarding": {"kind": "Pod", "namespace": NAMESPACE, "name": "web"},
            "reportingController": "acme.io/maker", "reportingInstance": "maker-1",
            "eventTime": "2026-01-01T00:00:00.000000Z"}),
        (_, "Event") => json!({"message": "made it", "reason": "Made", "type": "Normal",
            "involvedObject": {"kind": "Pod", "namespace": NAMESPACE, "name": "web"}}),
        ("autoscaling/v1", _) => json!({"spec": {"maxReplicas": 10,
            "targetCPUUtilizationPercentage": 60,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}),
        (_, "HorizontalPodAutoscaler") => json!({"spec": {"maxReplicas": 10,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}),
        (_, "ConfigMap") => json!({"data": {"a": "1"}, "binaryData": {"b": STANDARD.encode("2")}}),
        (_, "ControllerRevision") => json!({"data": {"a": 1}, "revision": 1}),
        (_, "Lease") => json!({"spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}}),
        (_, "LimitRange") => json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}}),
        (_, "Namespace") => json!({}),
        (_, "Node") => json!({"spec": {"podCIDR": "10.244.7.0/24", "unschedulable": true}}),
        (_, "PodDisruptionBudget") => json!({"spec": {"minAvailable": 1,
            "selector": {"matchLabels": {"app": "round"}}}}),
        (_, "PriorityClass") => json!({"value": 1000, "description": "round"}),
        (_, "ResourceQuota") => json!({"spec": {"hard": {"pods": "10"}}}),
        (_, "RuntimeClass") => json!({"handler": "runc"}),
        (_, "Widget") => json!({"spec": {"colours": ["red", "blue"]}}),
        (version, kind) => panic!("there is no sample of {kind} in {version}: write one"),
    }
}
