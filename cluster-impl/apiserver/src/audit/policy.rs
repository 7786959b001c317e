//! `--audit-policy-file`: an audit.k8s.io/v1 Policy. The first rule that fits a request decides how much
//! of it is written down.
//!
//! ```yaml
//! omitStages: [RequestReceived]
//! rules:
//! - {level: None, users: [system:kube-scheduler], verbs: [get, list, watch]}
//! - {level: Metadata, resources: [{group: "", resources: [secrets, configmaps]}]}
//! - {level: RequestResponse}
//! ```

use serde::Deserialize;

use crate::config::User;

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

/// How much is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// What is written down of which requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditPolicy {
    api_version: String,
    kind: String,
    /// Taken, as every object has it, and not looked at.
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// A request, as rules look at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) user: &'a User,
    pub(crate) verb: &'a str,
    pub(crate) path: &'a str,
    /// Empty for what is no resource.
    pub(crate) resource: &'a str,
    pub(crate) group: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// What is decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) level: Level,
    pub(crate) omits_managed_fields: bool,
    omitted: Vec<Stage>,
}

impl Extent {
    /// Whether this stage is written down.
    pub(crate) fn has(&self, stage: Stage) -> bool {
        self.level != Level::None && !self.omitted.contains(&stage)
    }
}

impl AuditPolicy {
    /// Reads a policy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self =
            serde_yaml::from_str(text).map_err(|error| PolicyError(error.to_string()))?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            let found = format!("{} {}", policy.api_version, policy.kind);
            return Err(PolicyError(format!("{found:?} is no audit.k8s.io/v1 Policy")));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError("loaded illegal policy with 0 rules".to_owned()));
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            let is_regular = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if is_regular && !rule.paths.is_empty() {
                return Err(PolicyError(format!(
                    "rules[{index}]: rules cannot apply to both regular resources and non-resource URLs"
                )));
            }
        }
        Ok(policy)
    }

    /// What is written down of a request.
    pub(crate) fn extent(&self, asked: &Asked<'_>) -> Extent {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(asked)) else {
            return Extent {
                level: Level::None,
                omits_managed_fields: self.omit_managed_fields,
                omitted: Vec::new(),
            };
        };
        let omitted = [self.omit_stages.as_slice(), &rule.omit_stages].concat();
        let omits_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Extent { level: rule.level, omits_managed_fields, omitted }
    }
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let has =
            |list: &[String], one: &str| list.is_empty() || list.iter().any(|each| each == one);
        let is_in_group = self.user_groups.is_empty()
            || asked.user.groups.iter().any(|group| self.user_groups.contains(group));
        if !has(&self.users, &asked.user.name) || !is_in_group || !has(&self.verbs, asked.verb) {
            return false;
        }
        if !self.paths.is_empty() {
            return asked.resource.is_empty()
                && self.paths.iter().any(|path| covers(path, asked.path));
        }
        if self.resources.is_empty() && self.namespaces.is_empty() {
            return true;
        }
        !asked.resource.is_empty()
            && has(&self.namespaces, asked.namespace)
            && (self.resources.is_empty() || self.resources.iter().any(|one| one.fits(asked)))
    }
}

impl Resources {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        if self.group != asked.group {
            return false;
        }
        let is_named = self.resource_names.is_empty()
            || self.resource_names.iter().any(|name| name == asked.name);
        let part = asked.subresource;
        let whole = match part {
            "" => asked.resource.to_owned(),
            part => format!("{}/{part}", asked.resource),
        };
        let fits = |one: &String| match one.as_str() {
            "*" => true,
            one if one == whole => true,
            one => match (one.strip_prefix("*/"), one.strip_suffix("/*")) {
                (Some(wanted), _) => wanted == part,
                (None, Some(wanted)) => wanted == asked.resource && !part.is_empty(),
                (None, None) => false,
            },
        };
        is_named && (self.resources.is_empty() || self.resources.iter().any(fits))
    }
}

fn covers(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = AuditPolicy::parse(
            "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [\
             {level: None, users: [bot], verbs: [get]},\
             {level: Metadata, resources: [{group: '', resources: [secrets, 'pods/log', '*/status']}]},\
             {level: None, nonResourceURLs: ['/healthz*', /version]},\
             {level: Request, namespaces: [web], omitManagedFields: true},\
             {level: RequestResponse, userGroups: [dev], resources: [{group: apps}], omitStages: [ResponseStarted]},\
             {level: Metadata, resources: [{group: '', resources: [configmaps], resourceNames: [a]}]}]}",
        )
        .unwrap();
        let jane = User::new("jane", &["dev"]);
        let bot = User::new("bot", &[]);
        let plain = Asked {
            user: &jane,
            verb: "get",
            path: "",
            resource: "pods",
            group: "",
            subresource: "",
            namespace: "default",
            name: "a",
        };
        for (asked, level) in [
            (Asked { user: &bot, ..plain }, Level::None),
            (Asked { resource: "secrets", ..plain }, Level::Metadata),
            (Asked { resource: "secrets", subresource: "x", ..plain }, Level::None),
            (Asked { subresource: "log", ..plain }, Level::Metadata),
            (Asked { resource: "nodes", subresource: "status", ..plain }, Level::Metadata),
            (Asked { namespace: "web", ..plain }, Level::Request),
            (Asked { resource: "deployments", group: "apps", ..plain }, Level::RequestResponse),
            (
                Asked { user: &bot, verb: "list", resource: "deployments", group: "apps", ..plain },
                Level::None,
            ),
            (Asked { resource: "configmaps", ..plain }, Level::Metadata),
            (Asked { resource: "configmaps", name: "b", ..plain }, Level::None),
            (Asked { resource: "", path: "/healthz/ping", ..plain }, Level::None),
            (Asked { resource: "", path: "/metrics", ..plain }, Level::None),
        ] {
            let extent = policy.extent(&asked);
            assert_eq!(extent.level, level, "{asked:?}");
            assert!(!extent.has(Stage::RequestReceived));
        }
        let web = policy.extent(&Asked { namespace: "web", ..plain });
        assert!(web.omits_managed_fields && web.has(Stage::ResponseStarted));
    }

    #[test]
    fn a_wrong_policy_is_refused() {
        for (text, why) in [
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: []}", "0 rules"),
            (
                "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: All}]}",
                "unknown variant",
            ),
            ("{apiVersion: v1, kind: Pod, rules: []}", "is no audit.k8s.io/v1 Policy"),
            (
                "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, namespaces: [a], nonResourceURLs: [/a]}]}",
                "cannot apply to both",
            ),
        ] {
            let error = AuditPolicy::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
