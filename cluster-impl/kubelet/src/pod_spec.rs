//! What a pod's specification asks of the kubelet, read from JSON.

use std::time::Duration;

use machinery::{Object, Quantity};
use serde_json::Value;

use crate::runtime::{
    CONTAINER_NAME_LABEL, DnsConfig, FilesOf, HASH_ANNOTATION, HostNamespaces, LinuxResources,
    Mount, MountSource, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL, PodId, PortMapping,
    RESTART_COUNT_ANNOTATION, SandboxConfig, Security,
};

/// `terminationGracePeriodSeconds` if absent.
const GRACE_DEFAULT_S: i64 = 30;
/// Shorter graces are raised to this, as upstream does: a SIGTERM without time to act on is none.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// When an ended container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub(crate) fn of(pod: &Object) -> Self {
        match pod.text("/spec/restartPolicy") {
            "OnFailure" => Self::OnFailure,
            "Never" => Self::Never,
            _ => Self::Always,
        }
    }

    /// Whether a container that ended with this code is started again.
    pub(crate) fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

pub(crate) fn init_containers(pod: &Object) -> &[Value] {
    pod.list("/spec/initContainers")
}

pub(crate) fn app_containers(pod: &Object) -> &[Value] {
    pod.list("/spec/containers")
}

/// What somebody added to the running pod to look into it.
pub(crate) fn ephemeral_containers(pod: &Object) -> &[Value] {
    pod.list("/spec/ephemeralContainers")
}

/// All of them, in the order in which they may start.
pub(crate) fn all_containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ephemeral_containers(pod).iter().chain(init_containers(pod)).chain(app_containers(pod))
}

pub(crate) fn name_of(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

pub(crate) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

pub(crate) fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub(crate) fn pod_id(pod: &Object) -> PodId {
    PodId {
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
    }
}

/// How long a pod that is asked to go may take.
pub(crate) fn grace(pod: &Object) -> Duration {
    let asked_s = pod
        .integer("/metadata/deletionGracePeriodSeconds")
        .or_else(|| pod.integer("/spec/terminationGracePeriodSeconds"))
        .unwrap_or(GRACE_DEFAULT_S);
    Duration::from_secs(u64::try_from(asked_s).unwrap_or_default()).max(GRACE_MIN)
}

/// How long a pod that the API no longer knows may take. One that was never seen terminating was
/// deleted by force.
pub(crate) fn grace_of_gone(pod: &Object) -> Duration {
    if pod.is_terminating() { grace(pod) } else { GRACE_MIN }
}

/// Changes when the container's specification does; only the image can change.
pub(crate) fn hash(container: &Value) -> String {
    let mut hash = 0x811c_9dc5_u32;
    for byte in name_of(container).bytes().chain([0]).chain(text(container, "image").bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

/// Whether the image is to be fetched although it is there.
pub(crate) fn pull_policy(container: &Value) -> &str {
    match text(container, "imagePullPolicy") {
        "" => {
            let image = crate::runtime::full_image_name(text(container, "image"));
            if image.ends_with(":latest") { "Always" } else { "IfNotPresent" }
        }
        policy => policy,
    }
}

pub(crate) fn is_host_network(pod: &Object) -> bool {
    pod.flag("/spec/hostNetwork")
}

/// Guaranteed, Burstable or BestEffort.
pub(crate) fn qos(pod: &Object) -> &'static str {
    match pod.text("/status/qosClass") {
        "Guaranteed" => return "Guaranteed",
        "Burstable" => return "Burstable",
        "BestEffort" => return "BestEffort",
        _ => {}
    }
    let containers = || init_containers(pod).iter().chain(app_containers(pod));
    let amount = |container: &Value, list: &str, name: &str| {
        Quantity::from_value(&container["resources"][list][name]).filter(|q| !q.is_zero())
    };
    let mentions = |container: &Value| {
        ["requests", "limits"].iter().any(|list| {
            ["cpu", "memory"].iter().any(|name| amount(container, list, name).is_some())
        })
    };
    let is_guaranteed = |container: &Value| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = amount(container, "limits", name);
            limit.is_some() && amount(container, "requests", name).or(limit) == limit
        })
    };
    if containers().all(is_guaranteed) {
        "Guaranteed"
    } else if containers().any(mentions) {
        "Burstable"
    } else {
        "BestEffort"
    }
}

/// Bounds of one container; `node_memory` is what the node has, in bytes.
pub(crate) fn resources(pod: &Object, container: &Value, node_memory: i64) -> LinuxResources {
    let amount = |list: &str, name: &str| Quantity::from_value(&container["resources"][list][name]);
    let cpu_limit = amount("limits", "cpu");
    let cpu_request = amount("requests", "cpu").or(cpu_limit);
    let cpu_shares =
        cpu_request.map_or(2, |cpu| (cpu.milli_value() * 1024 / 1000).clamp(2, 262_144));
    let cpu_quota = cpu_limit.map_or(0, |cpu| (cpu.milli_value() * 100).max(1000));
    let memory_limit = amount("limits", "memory").map_or(0, |memory| memory.value());
    let memory_request = amount("requests", "memory").map_or(memory_limit, |memory| memory.value());
    // pkg/kubelet/qos/policy.go
    let oom_score_adj = match qos(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => (1000 - 1000 * memory_request / node_memory.max(1)).clamp(3, 999),
    };
    LinuxResources { cpu_shares, cpu_quota, memory_limit, oom_score_adj }
}

/// The sandbox that the pod needs; `dns` is the cluster's.
pub(crate) fn sandbox_config(
    pod: &Object,
    attempt: u32,
    node_hostname: &str,
    dns: &ClusterDns,
) -> SandboxConfig {
    let id = pod_id(pod);
    let host_network = is_host_network(pod);
    let own = match pod.text("/spec/hostname") {
        "" => pod.name(),
        hostname => hostname,
    };
    let own: String = own.chars().take(63).collect();
    let hostname = if host_network { node_hostname.to_owned() } else { own };
    let mut labels = string_map(pod.get("/metadata/labels"));
    labels.extend([
        (POD_NAME_LABEL.to_owned(), id.name.clone()),
        (POD_NAMESPACE_LABEL.to_owned(), id.namespace.clone()),
        (POD_UID_LABEL.to_owned(), id.uid.clone()),
    ]);
    let aliases = pod.list("/spec/hostAliases").iter();
    let sysctls = pod.list("/spec/securityContext/sysctls").iter();
    SandboxConfig {
        attempt,
        hostname,
        host_aliases: aliases
            .map(|alias| (text(alias, "ip").to_owned(), texts(&alias["hostnames"])))
            .collect(),
        dns: dns.of(pod),
        ports: ports(pod),
        labels,
        annotations: string_map(pod.get("/metadata/annotations")),
        host: HostNamespaces {
            network: host_network,
            pid: pod.flag("/spec/hostPID"),
            ipc: pod.flag("/spec/hostIPC"),
            shared_pid: pod.flag("/spec/shareProcessNamespace"),
        },
        qos: qos(pod).to_lowercase(),
        security: Security {
            // The runtime lets a container have all rights only in a sandbox that has them.
            privileged: all_containers(pod)
                .any(|container| container["securityContext"]["privileged"] == true),
            ..security(pod, &Value::Null)
        },
        sysctls: sysctls
            .map(|sysctl| (text(sysctl, "name").to_owned(), text(sysctl, "value").to_owned()))
            .collect(),
        pod: id,
    }
}

/// The labels of a container.
pub(crate) fn container_labels(pod: &Object, name: &str) -> Vec<(String, String)> {
    [
        (POD_NAME_LABEL, pod.name()),
        (POD_NAMESPACE_LABEL, pod.namespace()),
        (POD_UID_LABEL, pod.uid()),
        (CONTAINER_NAME_LABEL, name),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The annotations of a container.
pub(crate) fn container_annotations(container: &Value, attempt: u32) -> Vec<(String, String)> {
    vec![
        (HASH_ANNOTATION.to_owned(), hash(container)),
        (RESTART_COUNT_ANNOTATION.to_owned(), attempt.to_string()),
    ]
}

fn string_map(value: Option<&Value>) -> std::collections::BTreeMap<String, String> {
    let Some(Value::Object(map)) = value else { return Default::default() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    map.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

fn ports(pod: &Object) -> Vec<PortMapping> {
    let number = |port: &Value, key: &str| {
        port[key].as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or_default()
    };
    let all = app_containers(pod).iter().filter_map(|c| c["ports"].as_array()).flatten();
    all.filter(|port| number(port, "hostPort") > 0)
        .map(|port| PortMapping {
            protocol: match text(port, "protocol") {
                "" => "TCP".to_owned(),
                protocol => protocol.to_owned(),
            },
            container_port: number(port, "containerPort"),
            host_port: number(port, "hostPort"),
            host_ip: text(port, "hostIP").to_owned(),
        })
        .collect()
}

/// The pod's and the container's `securityContext` in one; the container's wins.
pub(crate) fn security(pod: &Object, container: &Value) -> Security {
    let of_pod = pod.get("/spec/securityContext").unwrap_or(&Value::Null);
    let of_container = &container["securityContext"];
    let number = |key: &str| of_container[key].as_i64().or_else(|| of_pod[key].as_i64());
    let mut groups: Vec<i64> = of_pod["supplementalGroups"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    groups.extend(of_pod["fsGroup"].as_i64());
    Security {
        privileged: of_container["privileged"] == true,
        user: number("runAsUser"),
        group: number("runAsGroup"),
        groups,
        readonly_root: of_container["readOnlyRootFilesystem"] == true,
        no_new_privileges: of_container["allowPrivilegeEscalation"] == false,
        add_capabilities: texts(&of_container["capabilities"]["add"]),
        drop_capabilities: texts(&of_container["capabilities"]["drop"]),
    }
}

/// What of the pod's volumes the container sees. The error is for the status.
pub(crate) fn mounts(
    pod: &Object,
    container: &Value,
    env: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let wanted = container["volumeMounts"].as_array().map_or(&[][..], Vec::as_slice);
    wanted.iter().map(|mount| one_mount(pod, container, mount, env)).collect()
}

fn one_mount(
    pod: &Object,
    container: &Value,
    mount: &Value,
    env: &[(String, String)],
) -> Result<Mount, String> {
    let name = name_of(mount);
    let volumes = pod.list("/spec/volumes");
    let volume = volumes.iter().find(|volume| volume["name"] == name).ok_or_else(|| {
        let container = name_of(container);
        format!("cannot find volume {name:?} to mount into container {container:?}")
    })?;
    let has = |kind: &str| volume.get(kind).is_some_and(|source| !source.is_null());
    let source = match volume["hostPath"]["path"].as_str() {
        Some(path) => MountSource::HostPath(path.to_owned()),
        None if has("configMap") => MountSource::Files(FilesOf::ConfigMap),
        None if has("secret") => MountSource::Files(FilesOf::Secret),
        None if has("downwardAPI") => MountSource::Files(FilesOf::DownwardApi),
        None if has("projected") => MountSource::Files(FilesOf::Projected),
        None => MountSource::EmptyDir,
    };
    let sub_path = match text(mount, "subPathExpr") {
        "" => text(mount, "subPath").to_owned(),
        expression => crate::environment::expand_whole(expression, env)?,
    };
    if sub_path.starts_with('/') {
        return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
    }
    if sub_path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{sub_path}`: must not contain '..'"));
    }
    // Files that the kubelet writes are nobody else's to write.
    let readonly = mount["readOnly"] == true || matches!(source, MountSource::Files(_));
    Ok(Mount {
        container_path: text(mount, "mountPath").to_owned(),
        volume: name.to_owned(),
        source,
        sub_path,
        readonly,
        propagation: text(mount, "mountPropagation").to_owned(),
    })
}

/// How pods resolve names in this cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterDns {
    /// Addresses of the cluster's DNS; empty if it has none: then pods use the node's.
    pub servers: Vec<String>,
    /// Such as `cluster.local`.
    pub domain: String,
}

impl ClusterDns {
    fn of(&self, pod: &Object) -> Option<DnsConfig> {
        let policy = pod.text("/spec/dnsPolicy");
        let own = pod.get("/spec/dnsConfig").unwrap_or(&Value::Null);
        let mut dns = DnsConfig::default();
        let uses_cluster = match policy {
            "" | "ClusterFirst" => !is_host_network(pod),
            "ClusterFirstWithHostNet" => true,
            _ => false,
        };
        if uses_cluster && !self.servers.is_empty() {
            let (namespace, domain) = (pod.namespace(), &self.domain);
            dns.servers.clone_from(&self.servers);
            dns.searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            dns.options = vec!["ndots:5".to_owned()];
        }
        dns.servers.extend(texts(&own["nameservers"]));
        dns.searches.extend(texts(&own["searches"]));
        for option in own["options"].as_array().map_or(&[][..], Vec::as_slice) {
            let value = text(option, "value");
            let name = name_of(option);
            dns.options.push(if value.is_empty() {
                name.into()
            } else {
                format!("{name}:{value}")
            });
        }
        (dns != DnsConfig::default()).then_some(dns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Object {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set("/spec", spec);
        pod
    }

    #[test]
    fn the_quality_of_service_follows_requests_and_limits() {
        for (resources, expected) in [
            (r#"{}"#, "BestEffort"),
            (r#"{"requests":{"cpu":"100m"}}"#, "Burstable"),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#, "Guaranteed"),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"500m"}}"#, "Burstable"),
        ] {
            let resources: Value = serde_json::from_str(resources).unwrap();
            let pod = pod(serde_json::json!({"containers": [{"name":"a","resources":resources}]}));
            assert_eq!(qos(&pod), expected, "{resources}");
        }
    }

    #[test]
    fn bounds_become_weights_and_quotas() {
        let pod = pod(serde_json::json!({"containers": [{"name": "a", "resources":
            {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}}]}));
        let bounds = resources(&pod, &app_containers(&pod)[0], 1 << 30);
        assert_eq!(
            bounds,
            LinuxResources {
                cpu_shares: 256,
                cpu_quota: 50_000,
                memory_limit: 128 << 20,
                oom_score_adj: 938
            }
        );
    }

    #[test]
    fn the_cluster_s_dns_is_for_pods_with_their_own_network() {
        let dns = ClusterDns { servers: vec!["10.96.0.10".into()], domain: "cluster.local".into() };
        let searches = dns.of(&pod(serde_json::json!({}))).map(|dns| dns.searches);
        let expected = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
        assert_eq!(searches, Some(expected.map(String::from).into()));
        assert_eq!(dns.of(&pod(serde_json::json!({"hostNetwork": true}))), None);
        assert_eq!(dns.of(&pod(serde_json::json!({"dnsPolicy": "Default"}))), None);
    }

    #[test]
    fn graces_are_never_shorter_than_two_seconds() {
        let mut one = pod(serde_json::json!({"terminationGracePeriodSeconds": 0}));
        assert_eq!(grace(&one), Duration::from_secs(2));
        one.set("/metadata/deletionGracePeriodSeconds", 7);
        assert_eq!(grace(&one), Duration::from_secs(7));
        assert_eq!(grace_of_gone(&one), Duration::from_secs(2));
    }

    #[test]
    fn mounts_show_what_their_volumes_are() {
        let pod = pod(serde_json::json!({"volumes": [{"name": "a", "emptyDir": {}},
            {"name": "b", "configMap": {"name": "x"}}, {"name": "c", "hostPath": {"path": "/x"}}]}));
        let env = [("POD".to_owned(), "web-0".to_owned())];
        let told = |mount: Value| {
            let container = serde_json::json!({"name": "main", "volumeMounts": [mount]});
            mounts(&pod, &container, &env).map(|all| {
                let Mount { source, sub_path, readonly, .. } = &all[0];
                format!("{source:?} {sub_path:?} {readonly}")
            })
        };
        for (mount, expected) in [
            (serde_json::json!({"name": "a"}), Ok("EmptyDir \"\" false")),
            (serde_json::json!({"name": "b"}), Ok("Files(ConfigMap) \"\" true")),
            (serde_json::json!({"name": "c", "readOnly": true}), Ok("HostPath(\"/x\") \"\" true")),
            (
                serde_json::json!({"name": "a", "subPathExpr": "logs/$(POD)"}),
                Ok("EmptyDir \"logs/web-0\" false"),
            ),
            (
                serde_json::json!({"name": "a", "subPathExpr": "$(NO)"}),
                Err("missing value for \"NO\""),
            ),
            (
                serde_json::json!({"name": "a", "subPath": "../x"}),
                Err("unable to provision SubPath `../x`: must not contain '..'"),
            ),
            (
                serde_json::json!({"name": "d"}),
                Err("cannot find volume \"d\" to mount into container \"main\""),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(told(mount.clone()), expected, "{mount}");
        }
    }
}
