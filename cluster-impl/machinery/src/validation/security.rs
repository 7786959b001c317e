//! Validation of security contexts, of a pod and of its containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Causes, items, text};

const SYSCTL_LENGTH_MAX: usize = 253;
const PROFILE_LENGTH_MAX: usize = 4095;
const ID: &str = "must be between 0 and 2147483647, inclusive";
const TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// Checks `securityContext` of a pod at its field's path; `spec` is the pod's.
pub fn pod(causes: &mut Causes, spec: &Value, field: &str) {
    let context = &spec["securityContext"];
    for part in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(causes, &context[part], &format!("{field}.{part}"));
    }
    for (index, group) in items(&context["supplementalGroups"]) {
        id(causes, group, &format!("{field}.supplementalGroups[{index}]"));
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        causes.invalid(&format!("{field}.shareProcessNamespace"), true, why);
    }
    sysctls(causes, spec, &format!("{field}.sysctls"));
    for (part, supported) in [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
    ] {
        if let Some(value) = context[part].as_str().filter(|value| !supported.contains(value)) {
            causes.not_supported(&format!("{field}.{part}"), value, supported);
        }
    }
    profiles(causes, context, field);
}

/// Checks `securityContext` of a container at its field's path.
pub fn container(causes: &mut Causes, context: &Value, own_users: bool, field: &str) {
    for part in ["runAsUser", "runAsGroup"] {
        id(causes, &context[part], &format!("{field}.{part}"));
    }
    match context["procMount"].as_str() {
        None | Some("Default") => {}
        Some("Unmasked") if own_users => {}
        Some("Unmasked") => {
            let why = "`hostUsers` must be false to use `Unmasked`";
            causes.invalid(&format!("{field}.procMount"), "Unmasked", why);
        }
        Some(other) => {
            causes.not_supported(&format!("{field}.procMount"), other, &["Default", "Unmasked"]);
        }
    }
    profiles(causes, context, field);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            causes.invalid(
                field,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        for _ in items(&context["capabilities"]["add"]).filter(|(_, one)| *one == "CAP_SYS_ADMIN") {
            causes.invalid(
                field,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                 CAP_SYS_ADMIN",
            );
        }
    }
}

fn id(causes: &mut Causes, id: &Value, field: &str) {
    if let Some(id) = id.as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        causes.invalid(field, id, ID);
    }
}

fn sysctls(causes: &mut Causes, spec: &Value, field: &str) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in items(&spec["securityContext"]["sysctls"]) {
        let (at, name) = (format!("{field}[{index}].name"), text(&sysctl["name"]));
        if name.is_empty() {
            causes.required(&at, "");
        } else if !is_sysctl(name) {
            let why = format!(
                "must have at most {SYSCTL_LENGTH_MAX} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            causes.invalid(&at, name, &why);
        } else if !seen.insert(name) {
            causes.duplicate(&at, name);
        }
        let plain = name.replace('/', ".");
        let of_ipc =
            ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|one| plain.starts_with(one))
                || plain == "kernel.sem";
        if spec["hostNetwork"] == true && plain.starts_with("net.") {
            causes.invalid(&at, name, "may not be specified when 'hostNetwork' is true");
        } else if spec["hostIPC"] == true && of_ipc {
            causes.invalid(&at, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= SYSCTL_LENGTH_MAX
        && name.split(['.', '/']).all(|part| {
            part.starts_with(edge)
                && part.ends_with(edge)
                && part.chars().all(|c| edge(c) || c == '-' || c == '_')
        })
}

/// Checks `seccompProfile` and `appArmorProfile`.
fn profiles(causes: &mut Causes, context: &Value, field: &str) {
    for (part, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = &context[part];
        if profile.is_null() {
            continue;
        }
        let field = format!("{field}.{part}");
        let (kind, file) = (text(&profile["type"]), &profile["localhostProfile"]);
        let file_at = format!("{field}.localhostProfile");
        match kind {
            "" => causes.required(
                &format!("{field}.type"),
                &format!("type is required when {part} is set"),
            ),
            kind if !TYPES.contains(&kind) => {
                causes.not_supported(&format!("{field}.type"), kind, TYPES);
            }
            "Localhost" if file.is_null() => {
                causes.required(&file_at, &format!("must be set when {name} type is Localhost"));
            }
            "Localhost" if part == "seccompProfile" => {
                super::volumes::descending(causes, text(file), &file_at);
            }
            "Localhost" => apparmor_file(causes, text(file), &file_at),
            _ if file.is_null() => {}
            _ => {
                let why = format!("can only be set when {name} type is Localhost");
                causes.invalid(&file_at, file.clone(), &why);
            }
        }
    }
}

fn apparmor_file(causes: &mut Causes, file: &str, field: &str) {
    if file.trim() != file {
        causes.invalid(field, file, "must not be padded with whitespace");
    } else if file.is_empty() {
        causes.required(field, "must be set when AppArmor type is Localhost");
    }
    if file.len() > PROFILE_LENGTH_MAX {
        causes.too_long(field, PROFILE_LENGTH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    #[test]
    fn contexts_of_pods() {
        for (spec, start) in [
            (
                json!({"securityContext": {"runAsUser": 0, "fsGroup": 5, "supplementalGroups": [1]}}),
                None,
            ),
            (json!({"securityContext": {"runAsUser": -1}}), Some("Invalid s.runAsUser")),
            (
                json!({"securityContext": {"supplementalGroups": [1, 4294967296_i64]}}),
                Some("Invalid s.supplementalGroups[1]"),
            ),
            (
                json!({"shareProcessNamespace": true, "hostPID": true}),
                Some("Invalid s.shareProcessNamespace"),
            ),
            (json!({"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced"}]}}), None),
            (
                json!({"securityContext": {"sysctls": [{"name": "Kernel"}]}}),
                Some("Invalid s.sysctls[0].name: Invalid value: \"Kernel\": must have at most 253"),
            ),
            (
                json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.core.x"}]}}),
                Some("Invalid s.sysctls[0].name"),
            ),
            (
                json!({"securityContext": {"fsGroupChangePolicy": "Never"}}),
                Some("NotSupported s.fsGroupChangePolicy"),
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
                Some("Required s.seccompProfile.localhostProfile"),
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Localhost",
                    "localhostProfile": "../x"}}}),
                Some("Invalid s.seccompProfile.localhostProfile"),
            ),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "Unconfined",
                    "localhostProfile": "x"}}}),
                Some("Invalid s.appArmorProfile.localhostProfile"),
            ),
        ] {
            let mut causes = Causes::new();
            pod(&mut causes, &spec, "s");
            let found = lines(&causes.into_list());
            assert_eq!(found.len(), usize::from(start.is_some()), "{spec}: {found:?}");
            assert!(
                found.iter().zip(start).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn contexts_of_containers() {
        for (context, start) in [
            (json!({"privileged": true, "runAsUser": 1000}), None),
            (json!({"runAsGroup": -1}), Some("Invalid c.runAsGroup")),
            (json!({"procMount": "Unmasked"}), Some("Invalid c.procMount")),
            (json!({"procMount": "Open"}), Some("NotSupported c.procMount")),
            (json!({"seccompProfile": {}}), Some("Required c.seccompProfile.type")),
            (
                json!({"allowPrivilegeEscalation": false, "privileged": true}),
                Some("Invalid c: Invalid value: "),
            ),
            (
                json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}),
                Some("Invalid c: Invalid value: "),
            ),
        ] {
            let mut causes = Causes::new();
            container(&mut causes, &context, false, "c");
            let found = lines(&causes.into_list());
            assert_eq!(found.len(), usize::from(start.is_some()), "{context}: {found:?}");
            assert!(
                found.iter().zip(start).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
        }
    }
}
