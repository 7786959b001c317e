//! Discovery: which groups, versions and resources there are, in the old form and in the aggregated one.
//!
//! Everything comes from the registry of kinds; resources without stored objects (such as access reviews) are
//! passed in as [`Extra`], custom kinds by whoever serves them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::kinds::{Kind, Subresource};
use crate::versions;

/// Group and version of a kind.
type GroupVersion = (&'static str, &'static str);
/// A version behind its rank.
type Ranked = (Reverse<(u8, u32, u32)>, &'static str);

/// A resource that is served without a kind in the registry.
#[derive(Debug, Clone, Copy)]
pub struct Extra {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Plural, as in URLs.
    pub plural: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Whether it is asked for in a namespace.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

/// What is served beside the registered kinds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// Resources without stored objects.
    pub extra: &'a [Extra],
    /// Custom kinds.
    pub custom: &'a [&'static Kind],
}

impl Beside<'_> {
    fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        versions::served().chain(self.custom.iter().copied())
    }
}

/// What can be done with a stored resource.
pub fn verbs(kind: &Kind) -> Vec<&'static str> {
    let mut verbs =
        vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    if kind.kind == "Namespace" {
        verbs.retain(|verb| *verb != "deletecollection");
    }
    verbs
}

/// The subresources of a kind, `status` and `scale` among them, in order of name.
pub fn subresources(kind: &Kind) -> Vec<Subresource> {
    const VERBS: &[&str] = &["get", "patch", "update"];
    let mut all = kind.subresources.to_vec();
    if kind.has_status {
        all.push(Subresource { name: "status", kind: kind.kind, group: kind.group, verbs: VERBS });
    }
    if kind.has_scale {
        all.push(Subresource { name: "scale", kind: "Scale", group: "autoscaling", verbs: VERBS });
    }
    all.sort_by_key(|subresource| subresource.name);
    all
}

/// `GET /api`: `APIVersions`. `address` is where the server can be reached.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `GET /apis`: `APIGroupList`.
pub fn api_group_list(beside: Beside<'_>) -> Value {
    let groups: Vec<_> = groups(beside)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`: `APIGroup`; `None` if there is no such group.
pub fn api_group(group: &str, beside: Beside<'_>) -> Option<Value> {
    let groups = groups(beside);
    let (name, versions) = groups.get_key_value(group).filter(|_| !group.is_empty())?;
    let mut value = group_value(name, versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let version =
        |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<_> = versions.iter().map(version).collect();
    json!({"name": group, "preferredVersion": versions[0], "versions": versions})
}

/// `GET /api/v1` and `GET /apis/{group}/{version}`: `APIResourceList`; `None` if there is no such version.
pub fn api_resource_list(group: &str, version: &str, beside: Beside<'_>) -> Option<Value> {
    groups(beside).get(group).filter(|versions| versions.contains(&version))?;
    let mut resources = Vec::new();
    for kind in of_version((group, version), beside) {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular(),
            "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs(kind),
        }));
        let resource = resources.last_mut().expect("just pushed");
        for (field, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
            if !list.is_empty() {
                resource[field] = json!(list);
            }
        }
        for subresource in subresources(kind) {
            let mut value = json!({
                "name": format!("{}/{}", kind.plural, subresource.name), "singularName": "",
                "namespaced": kind.namespaced, "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if subresource.group != group {
                value["group"] = subresource.group.into();
                value["version"] = "v1".into();
            }
            resources.push(value);
        }
    }
    for one in beside.extra.iter().filter(|one| one.group == group && one.version == version) {
        resources.push(json!({
            "name": one.plural, "singularName": one.kind.to_lowercase(),
            "namespaced": one.namespaced, "kind": one.kind, "verbs": one.verbs,
        }));
    }
    let group_version = join(group, version);
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": resources,
    }))
}

/// `GET /api` and `GET /apis` in the aggregated form: `apidiscovery.k8s.io/v2` (or `v2beta1`)
/// `APIGroupDiscoveryList` of the core group, or of all others.
pub fn aggregated(core: bool, version: &str, beside: Beside<'_>) -> Value {
    let items: Vec<_> = groups(beside)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .into_iter()
                .map(|version| {
                    json!({"version": version, "freshness": "Current",
                        "resources": aggregated_resources((group, version), beside)})
                })
                .collect();
            let metadata = if core { json!({}) } else { json!({ "name": group }) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_resources(group_version: GroupVersion, beside: Beside<'_>) -> Vec<Value> {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let response = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let (group, version) = group_version;
    let kinds = of_version(group_version, beside).map(|kind| {
        let subresources: Vec<_> = subresources(kind)
            .iter()
            .map(|one| {
                let version =
                    if kind.custom.is_some() && one.group == group { version } else { "v1" };
                json!({"subresource": one.name, "verbs": one.verbs,
                    "responseKind": response(one.group, version, one.kind)})
            })
            .collect();
        let mut value = json!({
            "resource": kind.plural, "singularResource": kind.singular(),
            "scope": scope(kind.namespaced), "verbs": verbs(kind),
            "responseKind": response(group, version, kind.kind),
        });
        for (field, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
            if !list.is_empty() {
                value[field] = json!(list);
            }
        }
        if !subresources.is_empty() {
            value["subresources"] = subresources.into();
        }
        value
    });
    let extra =
        beside.extra.iter().filter(|one| (one.group, one.version) == group_version).map(|one| {
            json!({
                "resource": one.plural, "singularResource": one.kind.to_lowercase(),
                "scope": scope(one.namespaced), "verbs": one.verbs,
                "responseKind": response(group, version, one.kind),
            })
        });
    kinds.chain(extra).collect()
}

fn of_version<'v>(
    group_version: (&'v str, &'v str),
    beside: Beside<'v>,
) -> impl Iterator<Item = &'static Kind> + 'v {
    let kinds = versions::served().chain(beside.custom.iter().copied());
    kinds.filter(move |kind| (kind.group, kind.version) == group_version)
}

/// The groups with their versions, the preferred one first.
fn groups(beside: Beside<'_>) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let kinds = beside.kinds().map(|kind| (kind.group, kind.version));
    for (group, version) in kinds.chain(beside.extra.iter().map(|one| (one.group, one.version))) {
        groups.entry(group).or_default().insert((Reverse(versions::priority(version)), version));
    }
    let sorted = |set: BTreeSet<Ranked>| set.into_iter().map(|(_, version)| version).collect();
    groups.into_iter().map(|(group, set)| (group, sorted(set))).collect()
}

/// `v1` or `apps/v1`.
fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVIEWS: &[Extra] = &[Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectaccessreviews",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
        verbs: &["create"],
    }];

    fn beside() -> Beside<'static> {
        Beside { extra: REVIEWS, custom: &[] }
    }

    fn names(list: &Value, field: &str) -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one[field].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn groups_and_versions() {
        let list = api_group_list(beside());
        let groups = names(&list["groups"], "name");
        assert!(groups.is_sorted() && !groups.contains(&String::new()), "{groups:?}");
        for group in ["apps", "authorization.k8s.io", "coordination.k8s.io", "storage.k8s.io"] {
            assert!(groups.contains(&group.to_owned()), "{group}");
        }
        let apps = groups.iter().position(|group| group == "apps").unwrap();
        assert_eq!(list["groups"][apps]["preferredVersion"]["groupVersion"], "apps/v1");
        assert_eq!(api_group("apps", Beside::default()).unwrap()["kind"], "APIGroup");
        assert!(
            api_group("", Beside::default()).is_none()
                && api_group("nope", Beside::default()).is_none()
        );
        assert_eq!(api_versions("10.0.0.1:6443")["versions"], json!(["v1"]));
    }

    #[test]
    fn the_core_list_offers_eviction_to_drain() {
        let list = api_resource_list("", "v1", Beside::default()).unwrap();
        let eviction = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "pods/eviction")
            .unwrap();
        assert_eq!(
            *eviction,
            json!({"name": "pods/eviction", "singularName": "", "namespaced": true,
                "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]})
        );
        assert!(names(&list["resources"], "name").contains(&"nodes/status".to_owned()));
        assert!(api_resource_list("apps", "v1beta2", Beside::default()).is_none());
        let reviews = api_resource_list("authorization.k8s.io", "v1", beside()).unwrap();
        assert_eq!(reviews["resources"][0]["kind"], "SelfSubjectAccessReview");
    }

    #[test]
    fn the_aggregated_form_has_everything() {
        let core = aggregated(true, "v2", Beside::default());
        assert_eq!(core["apiVersion"], "apidiscovery.k8s.io/v2");
        let resources = &core["items"][0]["versions"][0]["resources"];
        let pods =
            resources.as_array().unwrap().iter().find(|one| one["resource"] == "pods").unwrap();
        assert_eq!(pods["shortNames"], json!(["po"]));
        assert_eq!(pods["categories"], json!(["all"]));
        assert_eq!(pods["scope"], "Namespaced");
        assert_eq!(
            names(&pods["subresources"], "subresource"),
            [
                "attach",
                "binding",
                "ephemeralcontainers",
                "eviction",
                "exec",
                "log",
                "portforward",
                "proxy",
                "resize",
                "status"
            ]
        );
        let others = aggregated(false, "v2", beside());
        let groups = api_group_list(beside())["groups"].as_array().unwrap().len();
        assert_eq!(others["items"].as_array().unwrap().len(), groups);
    }
}
