//! The Pod Security Standards: three levels, what each forbids, and what a namespace's labels ask for.
//!
//! Pure. Levels are pinned to versions of Kubernetes as upstream pins them; `latest` is 1.33.
//! Limit: before 1.19 seccomp was asked for by annotations, which mean nothing any more: levels pinned
//! to those versions do not look at it.

mod baseline;
mod restricted;

use std::fmt;

use serde_json::{Map, Value};

use crate::validation::items;
use crate::{Cause, Object};

const LABELS: &str = "pod-security.kubernetes.io/";

/// How much a pod may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// What is not known to lead to the node.
    Baseline,
    /// As little as pods can do with.
    Restricted,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// A level as it was in a version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// The level.
    pub level: Level,
    /// The minor version; `None` for the latest.
    pub minor: Option<u32>,
}

impl Pinned {
    const PRIVILEGED: Self = Self { level: Level::Privileged, minor: None };

    /// Whether rules of this minor version hold.
    fn is_since(self, minor: u32) -> bool {
        self.minor.is_none_or(|own| own >= minor)
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}:v1.{minor}", self.level),
            None => write!(f, "{}:latest", self.level),
        }
    }
}

/// What is to be done about pods of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What goes beyond it is refused.
    pub enforce: Pinned,
    /// What goes beyond it is written into the audit log.
    pub audit: Pinned,
    /// What goes beyond it is warned of.
    pub warn: Pinned,
}

impl Policy {
    /// The policy that a namespace's labels ask for, and what is wrong with them. What cannot be read
    /// is enforced as restricted, and neither warned of nor audited.
    pub fn of(labels: Option<&Map<String, Value>>) -> (Self, Vec<Cause>) {
        let mut causes = Vec::new();
        // Most namespaces ask for nothing, and this is asked at every write of a pod.
        if !labels.is_some_and(|labels| labels.keys().any(|label| label.starts_with(LABELS))) {
            return (Self::default(), causes);
        }
        let mut read = |mode: &str| {
            let text = |suffix: &str| {
                let label = format!("{LABELS}{mode}{suffix}");
                let value = labels?.get(&label)?.as_str()?;
                Some((label, value))
            };
            let mut wrong = |label: &str, value: &str, why: &str| {
                causes.push(Cause {
                    reason: "FieldValueInvalid".into(),
                    message: format!("Invalid value: {value:?}: {why}"),
                    field: format!("metadata.labels[{label}]"),
                });
            };
            let level = text("").map(|(label, value)| {
                level(value).ok_or_else(|| {
                    wrong(&label, value, "must be one of privileged, baseline, restricted");
                })
            });
            let minor = text("-version").map(|(label, value)| {
                minor(value).unwrap_or_else(|| {
                    wrong(&label, value, "must be \"latest\" or \"v1.x\"");
                    None
                })
            });
            (level, minor)
        };
        let (enforce, enforce_minor) = read("enforce");
        let (audit, audit_minor) = read("audit");
        let (warn, warn_minor) = read("warn");
        let pinned = |level: Option<Result<Level, ()>>, minor: Option<Option<u32>>, fallback| {
            let level = level.map_or(Level::Privileged, |level| level.unwrap_or(fallback));
            Pinned { level, minor: minor.flatten() }
        };
        let mut policy = Self {
            enforce: pinned(enforce, enforce_minor, Level::Restricted),
            audit: pinned(audit, audit_minor, Level::Privileged),
            warn: pinned(warn, warn_minor, Level::Privileged),
        };
        // Whoever makes a Deployment should hear of it, though only its pods are refused.
        if warn.is_none()
            && matches!(enforce, Some(Ok(_)))
            && policy.enforce.level > Level::Privileged
        {
            policy.warn.level = policy.enforce.level;
            if warn_minor.is_none() {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        (policy, causes)
    }

    /// Whether nothing is asked of pods.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|one| one.level == Level::Privileged)
    }
}

impl Default for Policy {
    fn default() -> Self {
        let all = Pinned::PRIVILEGED;
        Self { enforce: all, audit: all, warn: all }
    }
}

fn level(text: &str) -> Option<Level> {
    [Level::Privileged, Level::Baseline, Level::Restricted]
        .into_iter()
        .find(|level| level.to_string() == text)
}

fn minor(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let is_number = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_number && (minor == "0" || !minor.starts_with('0'));
    minor.parse().ok().filter(|_| is_plain).map(Some)
}

/// One way in which a pod goes beyond a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Such as `runAsNonRoot != true`.
    pub reason: &'static str,
    /// Who does what, such as `container "main" must not set runAsUser=0`.
    pub detail: String,
}

/// All violations in one line, with who does what.
pub fn details(violations: &[Violation]) -> String {
    let told: Vec<_> = violations
        .iter()
        .map(|one| match one.detail.as_str() {
            "" => one.reason.to_owned(),
            detail => format!("{} ({detail})", one.reason),
        })
        .collect();
    told.join(", ")
}

/// All violations in one line, without details.
pub fn reasons(violations: &[Violation]) -> String {
    let told: Vec<_> = violations.iter().map(|one| one.reason).collect();
    told.join(", ")
}

/// A check: what is wrong with a pod by a level of a version, if anything is.
type Check = fn(&Subject<'_>) -> Option<Violation>;

/// How a pod goes beyond a level; first what baseline forbids, in order of name. The object may also be
/// a template: anything with `metadata` and `spec` of a pod.
pub fn violations(pod: &Object, pinned: Pinned) -> Vec<Violation> {
    let subject = Subject { pod, pinned };
    let (baseline, restricted): (&[(&str, Check)], &[Check]) = match pinned.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => (baseline::ALL, &[]),
        Level::Restricted => (baseline::ALL, restricted::ALL),
    };
    // Some checks of restricted say all that one of baseline says, and more.
    let is_said_better = |name: &str| {
        pinned.level == Level::Restricted
            && match name {
                "capabilities" => pinned.is_since(22),
                "hostPathVolumes" => true,
                "seccompProfile" => pinned.is_since(19),
                _ => false,
            }
    };
    let baseline =
        baseline.iter().filter(|(name, _)| !is_said_better(name)).map(|(_, check)| check);
    baseline.chain(restricted).filter_map(|check| check(&subject)).collect()
}

/// A pod under examination.
struct Subject<'p> {
    pod: &'p Object,
    pinned: Pinned,
}

impl<'p> Subject<'p> {
    fn spec(&self) -> &'p Value {
        &self.pod.0["spec"]
    }

    /// Init containers first, then containers, then ephemeral ones.
    fn containers(&self) -> impl Iterator<Item = &'p Value> {
        let spec = self.spec();
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|list| items(&spec[list]).map(|(_, one)| one))
    }

    /// The names of the containers of which this is true.
    fn which(&self, is: impl Fn(&Value) -> bool) -> Vec<&'p str> {
        self.containers().filter(|one| is(one)).map(name).collect()
    }

    /// Whether what only Linux has is not asked for.
    fn is_windows(&self) -> bool {
        self.pinned.is_since(25) && self.spec()["os"]["name"] == "windows"
    }
}

/// Who sets something: the pod, or some of its containers. `None` if nobody does.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let mut setters = Vec::new();
    if pod {
        setters.push("pod".to_owned());
    }
    if !containers.is_empty() {
        setters.push(named("container", containers));
    }
    (!setters.is_empty()).then(|| setters.join(" and "))
}

fn name(of: &Value) -> &str {
    of["name"].as_str().unwrap_or_default()
}

/// `container "a"`, or `containers "a", "b"`.
fn named(what: &str, names: &[&str]) -> String {
    format!("{what}{} {}", plural(names.len()), quoted(names))
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    names.join(", ")
}

/// Sorted, each once.
fn sorted<'v>(values: impl IntoIterator<Item = &'v str>) -> Vec<&'v str> {
    values.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(level: Level) -> Pinned {
        Pinned { level, minor: None }
    }

    fn found(spec: Value, pinned: Pinned) -> String {
        details(&violations(&Object(json!({"metadata": {}, "spec": spec})), pinned))
    }

    fn with(context: Value) -> Value {
        json!({"containers": [{"name": "a", "securityContext": context}]})
    }

    fn good() -> Value {
        json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}})
    }

    #[test]
    fn baseline_forbids_what_leads_to_the_node() {
        let two = |a: Value, b: Value| {
            json!({"containers": [{"name": "a", "securityContext": a}],
                "initContainers": [{"name": "b", "securityContext": b}]})
        };
        for (spec, expected) in [
            (with(json!({})), ""),
            (with(json!({"appArmorProfile": {"type": "Localhost"}})), ""),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
                r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
            ),
            (with(json!({"capabilities": {"add": ["CHOWN"]}})), ""),
            (
                two(
                    json!({"capabilities": {"add": ["SYS_ADMIN", "NET_ADMIN"]}}),
                    json!({"capabilities": {"add": ["NET_ADMIN"]}}),
                ),
                r#"non-default capabilities (containers "b", "a" must not include "NET_ADMIN", "SYS_ADMIN" in securityContext.capabilities.add)"#,
            ),
            (
                json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}),
                "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
            ),
            (
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]}),
                r#"hostPath volumes (volume "v")"#,
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}, {"containerPort": 1}]}]}),
                r#"hostPort (container "a" uses hostPorts 443, 80)"#,
            ),
            (
                with(json!({"privileged": true})),
                r#"privileged (container "a" must not set securityContext.privileged=true)"#,
            ),
            (with(json!({"procMount": "Default"})), ""),
            (
                with(json!({"procMount": "Unmasked"})),
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
            ),
            (with(json!({"seLinuxOptions": {"type": "container_engine_t"}})), ""),
            (
                with(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                r#"seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)"#,
            ),
            (
                with(json!({"seccompProfile": {"type": "Unconfined"}})),
                r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}},
                    "containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": true}}}]}),
                r#"hostProcess (pod and container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
            ),
        ] {
            assert_eq!(found(spec.clone(), at(Level::Baseline)), expected, "{spec}");
            assert_eq!(found(spec, at(Level::Privileged)), "");
        }
        let annotated = Object(json!({"metadata": {"annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "unconfined"}}, "spec": {}}));
        assert_eq!(
            details(&violations(&annotated, at(Level::Baseline))),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")"
        );
    }

    #[test]
    fn restricted_asks_for_as_little_as_can_be() {
        let bad = with(
            json!({"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}, "runAsUser": 0}),
        );
        assert_eq!(
            found(bad, at(Level::Restricted)),
            "privileged (container \"a\" must not set securityContext.privileged=true), \
             allowPrivilegeEscalation != false (container \"a\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
             \"a\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"a\" must not \
             include \"NET_ADMIN\" in securityContext.capabilities.add), runAsNonRoot != true (pod or \
             container \"a\" must set securityContext.runAsNonRoot=true), runAsUser=0 (container \
             \"a\" must not set runAsUser=0), seccompProfile (pod or container \"a\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let change = |field: &str, value: Value| {
            let mut context = good();
            context[field] = value;
            with(context)
        };
        let mut volumes = with(good());
        volumes["volumes"] = json!([{"name": "v", "hostPath": {}}, {"name": "w", "nfs": {}},
            {"name": "x", "secret": {}}, {"name": "y", "projected": {}}]);
        for (spec, expected) in [
            (with(good()), ""),
            (
                change("runAsNonRoot", false.into()),
                r#"runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false)"#,
            ),
            (
                change("seccompProfile", json!({"type": "Unconfined"})),
                r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
            ),
            (change("capabilities", json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})), ""),
            (
                volumes,
                r#"restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")"#,
            ),
        ] {
            assert_eq!(found(spec.clone(), at(Level::Restricted)), expected, "{spec}");
        }
        let mut of_pod =
            with(json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}));
        of_pod["securityContext"] =
            json!({"runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}});
        assert_eq!(found(of_pod, at(Level::Restricted)), "", "the pod speaks for its containers");
        let mut windows = with(json!({"runAsNonRoot": true}));
        windows["os"] = json!({"name": "windows"});
        assert_eq!(found(windows.clone(), at(Level::Restricted)), "");
        let old = Pinned { level: Level::Restricted, minor: Some(24) };
        assert!(found(windows, old).starts_with("allowPrivilegeEscalation != false"));
    }

    #[test]
    fn levels_are_pinned_to_versions() {
        let at = |level, minor| Pinned { level, minor: Some(minor) };
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert_eq!(found(sysctl.clone(), at(Level::Baseline, 32)), "");
        assert_ne!(found(sysctl, at(Level::Baseline, 31)), "");
        let engine = with(json!({"seLinuxOptions": {"type": "container_engine_t"}}));
        assert_ne!(found(engine, at(Level::Baseline, 30)), "");
        let mut root = good();
        root["runAsUser"] = 0.into();
        assert_ne!(found(with(root.clone()), at(Level::Restricted, 23)), "");
        assert_eq!(found(with(root), at(Level::Restricted, 22)), "");
        let kept = with(json!({"runAsNonRoot": true, "capabilities": {"add": ["NET_ADMIN"]},
            "allowPrivilegeEscalation": true}));
        assert_eq!(
            reasons(&violations(&Object(json!({"spec": kept})), at(Level::Restricted, 7))),
            "non-default capabilities"
        );
    }

    #[test]
    fn labels_become_a_policy() {
        let policy = |labels: &[(&str, &str)]| {
            let labels = labels.iter();
            let labels: Map<_, _> =
                labels.map(|(name, value)| (format!("{LABELS}{name}"), (*value).into())).collect();
            let (policy, causes) = Policy::of(Some(&labels));
            let causes: Vec<_> =
                causes.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
            (format!("{} {} {}", policy.enforce, policy.audit, policy.warn), causes.join("; "))
        };
        let none = "privileged:latest";
        for (labels, expected) in [
            (vec![], format!("{none} {none} {none}")),
            (vec![("enforce", "baseline")], format!("baseline:latest {none} baseline:latest")),
            (
                vec![("enforce", "baseline"), ("enforce-version", "v1.22")],
                format!("baseline:v1.22 {none} baseline:v1.22"),
            ),
            (
                vec![("enforce", "baseline"), ("warn-version", "v1.23")],
                format!("baseline:latest {none} baseline:v1.23"),
            ),
            (
                vec![("enforce", "baseline"), ("warn", "privileged"), ("audit", "restricted")],
                format!("baseline:latest restricted:latest {none}"),
            ),
        ] {
            assert_eq!(policy(&labels), (expected, String::new()), "{labels:?}");
        }
        let (shown, wrong) =
            policy(&[("enforce", "strict"), ("warn", "x"), ("audit-version", "1.0")]);
        assert_eq!(shown, format!("restricted:latest {none} {none}"));
        assert_eq!(
            wrong,
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be \
             one of privileged, baseline, restricted; \
             metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"1.0\": must \
             be \"latest\" or \"v1.x\"; metadata.labels[pod-security.kubernetes.io/warn]: Invalid \
             value: \"x\": must be one of privileged, baseline, restricted"
        );
        for text in ["v2.0", "v1.01", "v1.", "v1.-1", ""] {
            assert_eq!(minor(text), None, "{text}");
        }
        assert_eq!((minor("v1.0"), minor("latest")), (Some(Some(0)), Some(None)));
    }
}
