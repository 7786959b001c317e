//! What the level restricted asks for beside baseline, in order of name.

use serde_json::Value;

use super::{Check, Subject, Violation, baseline, name, named, plural, quoted, setters, sorted};
use crate::validation::items;

pub(super) const ALL: &[Check] = &[
    allow_privilege_escalation,
    capabilities,
    restricted_volumes,
    run_as_non_root,
    run_as_user,
    seccomp,
];

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn allow_privilege_escalation(subject: &Subject<'_>) -> Option<Violation> {
    if !subject.pinned.is_since(8) || subject.is_windows() {
        return None;
    }
    let containers = subject
        .which(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    (!containers.is_empty()).then(|| Violation {
        reason: "allowPrivilegeEscalation != false",
        detail: format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            named("container", &containers)
        ),
    })
}

fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    if !subject.pinned.is_since(22) || subject.is_windows() {
        return None;
    }
    let kept = subject.which(|container| {
        let mut dropped = items(&container["securityContext"]["capabilities"]["drop"]);
        !dropped.any(|(_, one)| one == "ALL")
    });
    let keeps = (!kept.is_empty()).then(|| {
        let containers = named("container", &kept);
        format!("{containers} must set securityContext.capabilities.drop=[\"ALL\"]")
    });
    let adds = baseline::adds(subject, &["NET_BIND_SERVICE"]);
    let details: Vec<_> = keeps.into_iter().chain(adds).collect();
    let reason = "unrestricted capabilities";
    (!details.is_empty()).then(|| Violation { reason, detail: details.join("; ") })
}

fn restricted_volumes(subject: &Subject<'_>) -> Option<Violation> {
    let is_restricted = |volume: &&Value| !VOLUMES.iter().any(|source| !volume[*source].is_null());
    let volumes: Vec<&Value> =
        items(&subject.spec()["volumes"]).map(|(_, volume)| volume).filter(is_restricted).collect();
    if volumes.is_empty() {
        return None;
    }
    let names: Vec<_> = volumes.iter().map(|volume| name(volume)).collect();
    let types = sorted(volumes.iter().map(|volume| {
        let mut sources = volume.as_object().into_iter().flatten();
        let source = sources.find(|(field, value)| *field != "name" && !value.is_null());
        source.map_or("unknown", |(field, _)| field)
    }));
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "{} {verb} restricted volume type{} {}",
        named("volume", &names),
        plural(types.len()),
        quoted(&types)
    );
    Some(Violation { reason: "restricted volume types", detail })
}

fn run_as_non_root(subject: &Subject<'_>) -> Option<Violation> {
    let own = |holder: &Value| holder["securityContext"]["runAsNonRoot"].as_bool();
    let reason = "runAsNonRoot != true";
    let of_pod = own(subject.spec());
    let refusing = subject.which(|container| own(container) == Some(false));
    if let Some(setters) = setters(of_pod == Some(false), &refusing) {
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return Some(Violation { reason, detail });
    }
    let silent = subject.which(|container| own(container).is_none());
    (of_pod.is_none() && !silent.is_empty()).then(|| Violation {
        reason,
        detail: format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            named("container", &silent)
        ),
    })
}

fn run_as_user(subject: &Subject<'_>) -> Option<Violation> {
    if !subject.pinned.is_since(23) {
        return None;
    }
    let is_root = |holder: &Value| holder["securityContext"]["runAsUser"] == 0;
    let setters = setters(is_root(subject.spec()), &subject.which(is_root))?;
    Some(Violation { reason: "runAsUser=0", detail: format!("{setters} must not set runAsUser=0") })
}

fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    if !subject.pinned.is_since(19) || subject.is_windows() {
        return None;
    }
    let reason = "seccompProfile";
    if let Some(detail) = baseline::unconfined_seccomp(subject) {
        return Some(Violation { reason, detail });
    }
    let is_set = |holder: &Value| holder["securityContext"]["seccompProfile"].is_object();
    let silent = subject.which(|container| !is_set(container));
    (!is_set(subject.spec()) && !silent.is_empty()).then(|| Violation {
        reason,
        detail: format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\"",
            named("container", &silent)
        ),
    })
}
