//! Rules: what a role allows, matched against what is asked for, and against other rules.
//!
//! Pure. The words and the order of the matching are those of upstream's `rbac` package.

use machinery::Object;
use serde_json::{Value, json};

const ALL: &str = "*";

/// What is asked for, in the words of authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    /// API group; "" for core.
    pub(crate) group: &'a str,
    /// Plural; empty if a path outside the resources is asked for.
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    /// Empty for all namespaces, or for a cluster-scoped kind.
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The path, if it is outside the resources.
    pub(crate) path: &'a str,
    /// The one node whose pods a list or watch is narrowed to.
    pub(crate) of_node: &'a str,
}

impl<'a> Attributes<'a> {
    /// Asks for a resource.
    pub(crate) fn resource(verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self { verb, group, resource, ..Self::default() }
    }

    /// Whether a resource is asked for.
    pub(crate) fn is_resource(&self) -> bool {
        self.path.is_empty()
    }
}

/// One rule of a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Rule {
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) urls: Vec<String>,
    pub(crate) verbs: Vec<String>,
}

impl Rule {
    /// The rules of a Role or ClusterRole.
    pub(crate) fn read(role: &Object) -> Vec<Self> {
        let one = |rule: &Value| {
            let texts = |field: &str| {
                let list = rule[field].as_array().into_iter().flatten();
                list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
            };
            Self {
                groups: texts("apiGroups"),
                resources: texts("resources"),
                names: texts("resourceNames"),
                urls: texts("nonResourceURLs"),
                verbs: texts("verbs"),
            }
        };
        role.list("/rules").iter().map(one).collect()
    }

    /// As a role holds it.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({"verbs": self.verbs});
        for (field, list) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                value[field] = json!(list);
            }
        }
        value
    }

    /// Whether the rule allows what is asked for.
    pub(crate) fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource() {
            return self.urls.iter().any(|url| covers_url(url, asked.path));
        }
        has(&self.groups, asked.group)
            && self.resources.iter().any(|one| covers_resource(one, asked))
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }

    /// The rule as single grants: one verb on one resource, one name if it names any, or one URL.
    fn single(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                let (verbs, urls) = (vec![verb.clone()], vec![url.clone()]);
                all.push(Self { verbs, urls, ..Self::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let whole = Self {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        all.push(whole.clone());
                    }
                    let named = |name: &String| Self { names: vec![name.clone()], ..whole.clone() };
                    all.extend(self.names.iter().map(named));
                }
            }
        }
        all
    }

    /// Whether this rule grants all of a single grant.
    fn covers(&self, single: &Self) -> bool {
        let all_in = |own: &[String], wanted: &[String]| wanted.iter().all(|one| has(own, one));
        all_in(&self.verbs, &single.verbs)
            && all_in(&self.groups, &single.groups)
            && single.resources.iter().all(|wanted| {
                let subresource = wanted.split_once('/').map(|(_, sub)| format!("*/{sub}"));
                has(&self.resources, wanted)
                    || subresource.is_some_and(|sub| self.resources.contains(&sub))
            })
            && (self.names.is_empty()
                || !single.names.is_empty() && single.names.iter().all(|n| self.names.contains(n)))
            && single.urls.iter().all(|wanted| {
                self.urls.iter().any(|own| {
                    own == wanted
                        || own.strip_suffix(ALL).is_some_and(|start| wanted.starts_with(start))
                })
            })
    }

    /// As upstream writes a rule in a message.
    fn compact(&self) -> String {
        let quoted = |list: &[String]| {
            list.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" ")
        };
        let parts: Vec<_> = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:[{}]", quoted(list)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == ALL || one == wanted)
}

fn covers_resource(rule: &str, asked: &Attributes<'_>) -> bool {
    if rule == ALL {
        return true;
    }
    match rule.split_once('/') {
        None => asked.subresource.is_empty() && rule == asked.resource,
        Some((resource, subresource)) => {
            !asked.subresource.is_empty()
                && subresource == asked.subresource
                && (resource == ALL || resource == asked.resource)
        }
    }
}

fn covers_url(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix(ALL).is_some_and(|start| path.starts_with(start))
}

/// What `wanted` grants and `own` do not, as lines for a message; empty if nothing is missing.
pub(crate) fn missing(own: &[Rule], wanted: &[Rule]) -> Vec<String> {
    let mut missing: Vec<Rule> = Vec::new();
    for single in wanted.iter().flat_map(Rule::single) {
        if own.iter().any(|rule| rule.covers(&single)) {
            continue;
        }
        // Grants that differ in the verb alone are one line.
        let same = missing.iter_mut().find(|known| {
            (&known.groups, &known.resources, &known.names, &known.urls)
                == (&single.groups, &single.resources, &single.names, &single.urls)
        });
        match same {
            Some(known) if known.verbs.contains(&single.verbs[0]) => {}
            Some(known) => known.verbs.extend(single.verbs),
            None => missing.push(single),
        }
    }
    let mut lines: Vec<_> = missing.iter().map(Rule::compact).collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: Value) -> Rule {
        Rule::read(&Object(json!({"rules": [value]}))).remove(0)
    }

    fn asked<'a>(verb: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let (group, resource) = resource.split_once(':').unwrap_or(("", resource));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { subresource, name, ..Attributes::resource(verb, group, resource) }
    }

    #[test]
    fn rules_match_as_upstreams() {
        let pods = rule(json!({"verbs": ["get", "list"], "apiGroups": [""],
            "resources": ["pods", "pods/log"]}));
        let any = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        let scale = rule(json!({"verbs": ["get"], "apiGroups": ["*"], "resources": ["*/scale"]}));
        let named = rule(json!({"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"],
            "resourceNames": ["a"]}));
        for (rule, asked, allowed) in [
            (&pods, asked("get", "pods", "x"), true),
            (&pods, asked("get", "pods/log", "x"), true),
            (&pods, asked("get", "pods/status", "x"), false),
            (&pods, asked("delete", "pods", "x"), false),
            (&pods, asked("get", "apps:pods", "x"), false),
            (&any, asked("frob", "apps:deployments/scale", ""), true),
            (&scale, asked("get", "apps:deployments/scale", "x"), true),
            (&scale, asked("get", "apps:deployments", "x"), false),
            (&named, asked("get", "secrets", "a"), true),
            (&named, asked("get", "secrets", "b"), false),
            (&named, asked("list", "secrets", ""), false),
        ] {
            assert_eq!(rule.allows(&asked), allowed, "{rule:?} {asked:?}");
        }
    }

    #[test]
    fn paths_match_by_their_start() {
        let rule = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}));
        for (path, allowed) in
            [("/healthz", true), ("/healthz/ping", false), ("/api/v1", true), ("/api", false)]
        {
            let asked = Attributes { verb: "get", path, ..Attributes::default() };
            assert_eq!(rule.allows(&asked), allowed, "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_told_as_upstream_tells_it() {
        let own =
            rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"]}));
        let own = std::slice::from_ref(&own);
        for (wanted, lines) in [
            (json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), vec![]),
            (
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"],
                "resourceNames": ["a"]}),
                vec![],
            ),
            (json!({"verbs": ["get"], "apiGroups": [""], "resources": ["x/scale"]}), vec![]),
            (
                json!({"verbs": ["get", "list", "watch"], "apiGroups": ["", "apps"],
                "resources": ["pods"]}),
                vec![
                    r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
                    r#"{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "list" "watch"]}"#,
                ],
            ),
            (
                json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
                vec![r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#],
            ),
            (
                json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]}),
                vec![r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#],
            ),
        ] {
            assert_eq!(missing(own, &[rule(wanted.clone())]), lines, "{wanted}");
        }
        let one = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"],
            "resourceNames": ["a"]}));
        let all = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert_eq!(missing(&[one], &[all]).len(), 1, "a name is less than all names");
    }
}
