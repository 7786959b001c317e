//! What the level baseline forbids, in order of name.

use serde_json::Value;

use super::{Check, Subject, Violation, name, named, plural, quoted, setters, sorted};
use crate::validation::{items, text};

pub(super) const ALL: &[(&str, Check)] = &[
    ("appArmorProfile", app_armor),
    ("capabilities", capabilities),
    ("hostNamespaces", host_namespaces),
    ("hostPathVolumes", host_path_volumes),
    ("hostPorts", host_ports),
    ("privileged", privileged),
    ("procMount", proc_mount),
    ("seLinuxOptions", selinux),
    ("seccompProfile", seccomp),
    ("sysctls", sysctls),
    ("windowsHostProcess", windows_host_process),
];

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that are safe, with the minor version from which on they are taken for it.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.tcp_wmem", 32),
];
const SELINUX_TYPES: [(&str, u32); 5] = [
    ("", 0),
    ("container_engine_t", 31),
    ("container_init_t", 0),
    ("container_kvm_t", 0),
    ("container_t", 0),
];

/// Whether a profile of AppArmor or seccomp is set that confines nothing.
pub(super) fn is_unconfined(profile: &Value) -> bool {
    profile.is_object() && !matches!(text(&profile["type"]), "RuntimeDefault" | "Localhost")
}

fn app_armor(subject: &Subject<'_>) -> Option<Violation> {
    let of = |holder: &Value| is_unconfined(&holder["securityContext"]["appArmorProfile"]);
    let pod = of(subject.spec());
    let containers = subject.which(of);
    let holders = std::iter::once(subject.spec()).chain(subject.containers());
    let types = holders.filter(|one| of(one));
    let types = types.map(|one| text(&one["securityContext"]["appArmorProfile"]["type"]));
    let mut values: Vec<_> = sorted(types).into_iter().map(str::to_owned).collect();
    let annotations = subject.pod.map("/metadata/annotations").into_iter().flatten();
    let mut wrong: Vec<_> = annotations
        .filter(|(key, _)| key.starts_with(APP_ARMOR))
        .filter(|(_, value)| {
            let value = text(value);
            !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={:?}", text(value)))
        .collect();
    wrong.sort();
    let annotated = (!wrong.is_empty()).then(|| format!("annotation{}", plural(wrong.len())));
    values.append(&mut wrong);
    let setters: Vec<_> = setters(pod, &containers).into_iter().chain(annotated).collect();
    if setters.is_empty() {
        return None;
    }
    let reason = match values.len() {
        1 => "forbidden AppArmor profile",
        _ => "forbidden AppArmor profiles",
    };
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        setters.join(" and "),
        quoted(&values)
    );
    Some(Violation { reason, detail })
}

/// The capabilities that a container adds beside those that it may.
pub(super) fn added<'v>(container: &'v Value, allowed: &[&str]) -> Vec<&'v str> {
    let added = items(&container["securityContext"]["capabilities"]["add"]);
    added.map(|(_, one)| text(one)).filter(|one| !allowed.contains(one)).collect()
}

/// Who adds which capabilities beside those that are allowed.
pub(super) fn adds(subject: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let containers = subject.which(|container| !added(container, allowed).is_empty());
    let all = subject.containers().flat_map(|container| added(container, allowed));
    let all = sorted(all);
    (!containers.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named("container", &containers),
            quoted(&all)
        )
    })
}

fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let detail = adds(subject, &CAPABILITIES)?;
    Some(Violation { reason: "non-default capabilities", detail })
}

fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let shared: Vec<_> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|name| subject.spec()[*name] == true)
        .map(|name| format!("{name}=true"))
        .collect();
    let reason = "host namespaces";
    (!shared.is_empty()).then(|| Violation { reason, detail: shared.join(", ") })
}

fn host_path_volumes(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = items(&subject.spec()["volumes"]).map(|(_, volume)| volume);
    let names: Vec<_> = volumes.filter(|one| !one["hostPath"].is_null()).map(name).collect();
    let detail = || named("volume", &names);
    (!names.is_empty()).then(|| Violation { reason: "hostPath volumes", detail: detail() })
}

fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let of = |container: &Value| -> Vec<String> {
        let ports = items(&container["ports"]);
        let ports = ports.filter_map(|(_, port)| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let containers = subject.which(|container| !of(container).is_empty());
    let ports: Vec<_> = subject.containers().flat_map(of).collect();
    let ports = sorted(ports.iter().map(String::as_str));
    let verb = if containers.len() == 1 { "uses" } else { "use" };
    (!containers.is_empty()).then(|| Violation {
        reason: "hostPort",
        detail: format!(
            "{} {verb} hostPort{} {}",
            named("container", &containers),
            plural(ports.len()),
            ports.join(", ")
        ),
    })
}

fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let containers = subject.which(|one| one["securityContext"]["privileged"] == true);
    (!containers.is_empty()).then(|| Violation {
        reason: "privileged",
        detail: format!(
            "{} must not set securityContext.privileged=true",
            named("container", &containers)
        ),
    })
}

fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    let of = |container: &Value| {
        let mount = &container["securityContext"]["procMount"];
        !mount.is_null() && mount != "Default"
    };
    let containers = subject.which(of);
    let mounts = subject.containers().filter(|one| of(one));
    let mounts = sorted(mounts.map(|one| text(&one["securityContext"]["procMount"])));
    (!containers.is_empty()).then(|| Violation {
        reason: "procMount",
        detail: format!(
            "{} must not set securityContext.procMount to {}",
            named("container", &containers),
            quoted(&mounts)
        ),
    })
}

fn selinux(subject: &Subject<'_>) -> Option<Violation> {
    let options = |holder: &'_ Value| holder["securityContext"]["seLinuxOptions"].clone();
    let is_known = |kind: &str| {
        SELINUX_TYPES.iter().any(|(known, since)| *known == kind && subject.pinned.is_since(*since))
    };
    let has = |options: &Value, field: &str| !text(&options[field]).is_empty();
    let is_wrong = |holder: &Value| {
        let options = options(holder);
        !is_known(text(&options["type"])) || has(&options, "user") || has(&options, "role")
    };
    let setters = setters(is_wrong(subject.spec()), &subject.which(is_wrong))?;
    let holders = std::iter::once(subject.spec()).chain(subject.containers());
    let all: Vec<_> = holders.map(options).collect();
    let types = sorted(all.iter().map(|one| text(&one["type"])).filter(|kind| !is_known(kind)));
    let mut parts = Vec::new();
    if !types.is_empty() {
        parts.push(named("type", &types));
    }
    for field in ["user", "role"] {
        if all.iter().any(|one| has(one, field)) {
            parts.push(format!("{field} may not be set"));
        }
    }
    let parts = parts.join("; ");
    let detail = format!("{setters} set forbidden securityContext.seLinuxOptions: {parts}");
    Some(Violation { reason: "seLinuxOptions", detail })
}

fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    if !subject.pinned.is_since(19) {
        return None;
    }
    let detail = unconfined_seccomp(subject)?;
    Some(Violation { reason: "seccompProfile", detail })
}

/// Who sets a seccomp profile that confines nothing.
pub(super) fn unconfined_seccomp(subject: &Subject<'_>) -> Option<String> {
    let of = |holder: &Value| is_unconfined(&holder["securityContext"]["seccompProfile"]);
    let setters = setters(of(subject.spec()), &subject.which(of))?;
    let holders = std::iter::once(subject.spec()).chain(subject.containers());
    let types = holders.filter(|one| of(one));
    let types = types.map(|one| text(&one["securityContext"]["seccompProfile"]["type"]));
    let types = quoted(&sorted(types));
    Some(format!("{setters} must not set securityContext.seccompProfile.type to {types}"))
}

fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    let all = items(&subject.spec()["securityContext"]["sysctls"]).map(|(_, one)| name(one));
    let is_safe = |name: &&str| {
        SYSCTLS.iter().any(|(known, since)| known == name && subject.pinned.is_since(*since))
    };
    let forbidden: Vec<_> = all.filter(|name| !is_safe(name)).collect();
    let reason = "forbidden sysctls";
    (!forbidden.is_empty()).then(|| Violation { reason, detail: forbidden.join(", ") })
}

fn windows_host_process(subject: &Subject<'_>) -> Option<Violation> {
    let of = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let setters = setters(of(subject.spec()), &subject.which(of))?;
    let detail = format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation { reason: "hostProcess", detail })
}
