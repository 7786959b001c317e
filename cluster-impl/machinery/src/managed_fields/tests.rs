//! Cases of structured-merge-diff and of upstream's apply tests, on kinds of our own.

use serde_json::{Value, json};

use super::*;
use crate::kinds::{CONFIG_MAP, DEPLOYMENT, POD, SERVICE};
use crate::{Kind, Status};

fn writer(manager: &'static str) -> Writer<'static> {
    Writer { manager, subresource: "", time: "2026-01-01T00:00:00Z" }
}

/// An object with its writers.
struct Case {
    kind: &'static Kind,
    live: Option<Object>,
}

impl Case {
    fn new(kind: &'static Kind) -> Self {
        Self { kind, live: None }
    }

    fn body(&self, part: &Value) -> Value {
        let mut body = json!({"apiVersion": self.kind.api_version(), "kind": self.kind.kind,
            "metadata": {"name": "a"}});
        for (name, value) in part.as_object().unwrap() {
            if name == "metadata" {
                let more = value.as_object().unwrap().clone();
                body["metadata"].as_object_mut().unwrap().extend(more);
            } else {
                body[name] = value.clone();
            }
        }
        body
    }

    fn try_apply(&mut self, writer: Writer<'_>, force: bool, part: Value) -> Result<(), Status> {
        let config = self.body(&part);
        let applied =
            apply(self.kind, writer, self.live.as_ref(), Apply { config: &config, force })?;
        let mut applied = applied;
        crate::fields::decode(self.kind, &mut applied)?;
        applied.set("/metadata/uid", "u");
        self.live = Some(applied);
        Ok(())
    }

    fn apply(&mut self, manager: &'static str, part: Value) -> &mut Self {
        self.try_apply(writer(manager), false, part).unwrap();
        self
    }

    fn force(&mut self, manager: &'static str, part: Value) -> &mut Self {
        self.try_apply(writer(manager), true, part).unwrap();
        self
    }

    fn conflict(&mut self, manager: &'static str, part: Value) -> Status {
        self.try_apply(writer(manager), false, part).unwrap_err()
    }

    fn update(&mut self, manager: &'static str, part: Value) -> &mut Self {
        self.update_by(writer(manager), part)
    }

    fn update_by(&mut self, writer: Writer<'_>, part: Value) -> &mut Self {
        let mut new = Object(self.body(&part));
        new.set("/metadata/uid", "u");
        if let Some(live) = &self.live
            && new.get(POINTER).is_none()
        {
            new.set(POINTER, live.list(POINTER).to_vec());
        }
        update(self.kind, writer, self.live.as_ref(), &mut new);
        self.live = Some(new);
        self
    }

    fn part(&self, name: &str) -> Value {
        self.live.as_ref().unwrap().0[name].clone()
    }

    /// `manager operation: fields` of every entry.
    fn owners(&self) -> Vec<String> {
        let list = self.live.as_ref().unwrap().list(POINTER);
        list.iter()
            .map(|one| {
                let set = FieldSet::from_value(&one["fieldsV1"]).unwrap();
                let paths: Vec<_> = set.paths().iter().map(|path| path_text(path)).collect();
                let subresource =
                    one["subresource"].as_str().map_or(String::new(), |name| format!("/{name}"));
                format!(
                    "{} {}{subresource}: {}",
                    one["manager"].as_str().unwrap(),
                    one["operation"].as_str().unwrap(),
                    paths.join(" ")
                )
            })
            .collect()
    }
}

fn data(text: &str) -> Value {
    let map: serde_json::Map<String, Value> = text
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    json!({ "data": map })
}

#[test]
fn an_applier_owns_what_it_names() {
    let mut case = Case::new(&CONFIG_MAP);
    case.apply("one", data("a=1 b=1"));
    assert_eq!(case.owners(), ["one Apply: .data.a .data.b"]);
    case.apply("two", data("c=1"));
    assert_eq!(case.part("data"), json!({"a": "1", "b": "1", "c": "1"}));
    assert_eq!(case.owners(), ["one Apply: .data.a .data.b", "two Apply: .data.c"]);
    // The same value is owned by both, and goes when neither names it.
    case.apply("two", data("a=1 c=1")).apply("one", data("b=1"));
    assert_eq!(case.part("data"), json!({"a": "1", "b": "1", "c": "1"}));
    case.apply("two", data("c=1"));
    assert_eq!(case.part("data"), json!({"b": "1", "c": "1"}));
    case.apply("one", json!({})).apply("two", json!({}));
    assert_eq!(case.part("data"), Value::Null);
    assert_eq!(case.owners(), [""; 0]);
}

#[test]
fn conflicts_are_told_and_forced() {
    let mut case = Case::new(&DEPLOYMENT);
    case.apply("one", json!({"spec": {"replicas": 1, "paused": true}}));
    let refused = case.conflict("two", json!({"spec": {"replicas": 2}}));
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    assert_eq!(
        refused.details["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.replicas"}])
    );
    case.update("three", json!({"spec": {"replicas": 3, "paused": true}}));
    assert_eq!(case.owners(), ["one Apply: .spec.paused", "three Update: .spec.replicas"]);
    let refused = case.conflict("two", json!({"spec": {"replicas": 2, "paused": false}}));
    assert_eq!(
        refused.message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.paused\nconflicts with \"three\" \
         using apps/v1:\n- .spec.replicas"
    );
    case.force("two", json!({"spec": {"replicas": 2, "paused": false}}));
    assert_eq!(case.owners(), ["two Apply: .spec.paused .spec.replicas"]);
    // What an update took is not given up by an apply that no longer names it.
    case.update("three", json!({"spec": {"replicas": 5, "paused": false}}));
    case.apply("two", json!({"spec": {"paused": false}}));
    assert_eq!(case.part("spec"), json!({"replicas": 5, "paused": false}));
}

#[test]
fn items_of_lists_are_owned_by_their_keys() {
    let container = |name: &str, image: &str| json!({"name": name, "image": image});
    let spec = |list: Value| json!({"spec": {"containers": list}});
    let mut case = Case::new(&POD);
    case.apply("one", spec(json!([container("a", "1")])));
    case.apply("two", spec(json!([container("b", "1")])));
    assert_eq!(
        case.part("spec"),
        json!({"containers": [container("a", "1"), container("b", "1")]})
    );
    let refused = case.conflict("two", spec(json!([container("a", "2")])));
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.containers[name=\"a\"].image"
    );
    // An item stays as long as anybody owns it, with the fields that anybody owns.
    case.apply("two", spec(json!([{"name": "a", "tty": true}])));
    case.apply("one", spec(json!([])));
    assert_eq!(case.part("spec"), json!({"containers": [{"name": "a", "tty": true}]}));
    case.apply("two", json!({"spec": {}}));
    assert_eq!(case.part("spec").get("containers"), None);
}

#[test]
fn a_default_is_part_of_a_key() {
    let ports = |list: Value| json!({"spec": {"ports": list}});
    let mut case = Case::new(&SERVICE);
    case.apply("one", ports(json!([{"port": 80, "name": "x"}])));
    case.apply("two", ports(json!([{"port": 80, "protocol": "TCP", "targetPort": 8080}])));
    case.apply("three", ports(json!([{"port": 80, "protocol": "UDP", "name": "y"}])));
    assert_eq!(
        case.part("spec"),
        json!({"ports": [
            {"port": 80, "name": "x", "protocol": "TCP", "targetPort": 8080},
            {"port": 80, "protocol": "UDP", "name": "y"}]})
    );
    case.apply("two", ports(json!([])));
    assert_eq!(case.part("spec")["ports"][0], json!({"port": 80, "name": "x"}));
}

#[test]
fn sets_and_atomic_values_are_merged_as_what_they_are() {
    let mut case = Case::new(&POD);
    case.apply(
        "one",
        json!({"metadata": {"finalizers": ["a/a"]}, "spec": {"nodeSelector": {"a": "1"}}}),
    );
    case.apply("two", json!({"metadata": {"finalizers": ["b/b"]}}));
    assert_eq!(case.part("metadata")["finalizers"], json!(["a/a", "b/b"]));
    let refused = case.conflict("two", json!({"spec": {"nodeSelector": {"b": "1"}}}));
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.nodeSelector"
    );
    case.apply("one", json!({"spec": {"nodeSelector": {"c": "1"}}}));
    assert_eq!(case.part("metadata")["finalizers"], json!(["b/b"]));
    assert_eq!(case.part("spec"), json!({"nodeSelector": {"c": "1"}}));
}

#[test]
fn an_update_owns_what_it_changes() {
    let mut case = Case::new(&CONFIG_MAP);
    case.update("one", data("a=1 b=1"));
    assert_eq!(case.owners(), ["one Update: .data .data.a .data.b"]);
    case.update("two", data("a=2 c=1"));
    assert_eq!(case.owners(), ["one Update: .data", "two Update: .data.a .data.c"]);
    let before = case.live.clone();
    case.update_by(Writer { time: "2026-01-01T00:00:09Z", ..writer("one") }, data("a=2 c=1"));
    assert_eq!(case.live, before, "a write that changes nothing is noted nowhere");
    case.update_by(Writer { time: "2026-01-01T00:00:09Z", ..writer("two") }, data("a=3 c=1"));
    let times: Vec<_> = case.part("metadata")["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["time"].clone())
        .collect();
    assert_eq!(times, ["2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"]);
    case.update("", data("d=1"));
    assert_eq!(case.owners(), ["one Update: .data", "unknown Update: .data.d"]);
}

#[test]
fn status_and_spec_have_owners_of_their_own() {
    let mut case = Case::new(&DEPLOYMENT);
    let status = |replicas: i64| json!({"spec": {"replicas": 1}, "status": {"replicas": replicas}});
    case.update("one", status(0));
    assert_eq!(case.owners(), ["one Update: .spec.replicas"]);
    let by = Writer { subresource: "status", ..writer("one") };
    case.update_by(by, status(1));
    assert_eq!(
        case.owners(),
        ["one Update: .spec.replicas", "one Update/status: .status.replicas"]
    );
    // What an apply may not reach it does not own, and takes from nobody.
    case.apply("two", json!({"spec": {"paused": true}, "status": {"replicas": 9}}));
    assert_eq!(case.owners()[0], "two Apply: .spec.paused");
    assert_eq!(case.owners().len(), 3);
    case.try_apply(
        Writer { subresource: "status", ..writer("three") },
        false,
        json!({"spec": {"replicas": 5}, "status": {"readyReplicas": 1}}),
    )
    .unwrap();
    assert!(
        case.owners().contains(&"three Apply/status: .status.readyReplicas".to_owned()),
        "{:?}",
        case.owners()
    );
    let refused = case
        .try_apply(
            Writer { subresource: "status", ..writer("three") },
            false,
            json!({"status": {"replicas": 7}}),
        )
        .unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\" with subresource \"status\" using apps/v1: \
         .status.replicas"
    );
}

#[test]
fn owners_are_forgotten_on_demand() {
    for nobody in [json!([]), json!([{}])] {
        let mut case = Case::new(&CONFIG_MAP);
        case.apply("one", data("a=1"));
        let mut body = data("a=1");
        body["metadata"] = json!({ "managedFields": nobody });
        case.update("two", body);
        assert_eq!(case.owners(), [""; 0]);
        // Nobody is noted any more until somebody applies.
        case.update("two", data("a=1 b=1"));
        assert_eq!(case.owners(), [""; 0]);
        case.apply("one", data("c=1"));
        assert_eq!(
            case.owners(),
            ["one Apply: .data.c", "before-first-apply Update: .data .data.a .data.b"]
        );
    }
    let mut case = Case::new(&CONFIG_MAP);
    case.apply("one", data("a=1"));
    let mut body = data("a=1");
    body["metadata"] = json!({"managedFields": [{"manager": "x", "operation": "None"}]});
    case.update("two", body);
    assert_eq!(case.owners(), ["one Apply: .data.a"], "what cannot be read is not taken");
    let mut body = data("a=1");
    body["metadata"] = json!({"managedFields": [{"manager": "x", "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}]});
    case.update("two", body);
    assert_eq!(case.owners(), ["x Apply: .data.a"]);
    case.update_by(
        Writer { subresource: "status", ..writer("two") },
        json!({"data": {"a": "1"}, "metadata": {"managedFields": []}}),
    );
    assert_eq!(case.owners(), ["x Apply: .data.a"], "a subresource's write forgets nobody");
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut case = Case::new(&DEPLOYMENT);
    case.apply("one", json!({"spec": {"replicas": 1}, "metadata": {"labels": {"a": "1"}}}));
    let before = case.live.clone();
    let later = Writer { time: "2026-01-01T00:00:09Z", ..writer("one") };
    case.try_apply(
        later,
        false,
        json!({"spec": {"replicas": 1}, "metadata": {"labels": {"a": "1"}}}),
    )
    .unwrap();
    assert_eq!(case.live, before);
    case.try_apply(later, false, json!({"spec": {"replicas": 1}})).unwrap();
    assert_ne!(case.live, before);
    let (one, mut two) = (before.unwrap(), case.live.unwrap());
    let other = two.clone();
    keep_times(&one, &mut two);
    assert_eq!(two, other, "an owner less is a change");
    two.clone_from(&one);
    two.0["metadata"]["managedFields"][0]["time"] = "2027-01-01T00:00:00Z".into();
    let other = two.clone();
    keep_times(&one, &mut two);
    assert_eq!(two, one);
    two.clone_from(&other);
    two.set("/spec/replicas", 2);
    keep_times(&one, &mut two);
    assert_eq!(two.list(POINTER), other.list(POINTER));
}

#[test]
fn kubectls_client_side_apply_is_taken_over() {
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let mut case = Case::new(&CONFIG_MAP);
    let mut body = case.body(&data("a=1 b=1"));
    let last = format!("{body}\n");
    body["metadata"]["annotations"] = json!({ annotation: last });
    case.update("kubectl-client-side-apply", body.clone());
    // Another manager conflicts, kubectl does not.
    assert_eq!(case.conflict("other", data("a=2")).code, 409);
    case.apply("kubectl", data("a=2"));
    assert_eq!(case.part("data"), json!({"a": "2", "b": "1"}));
    assert_eq!(case.owners()[0], "kubectl Apply: .data.a");
    let now = case.part("metadata")["annotations"][annotation].clone();
    let now: Value = serde_json::from_str(now.as_str().unwrap()).unwrap();
    assert_eq!(now["data"], json!({"a": "2"}));
    // A field that somebody changed since is no longer kubectl's.
    case.update("other", {
        let mut body = case.body(&data("a=5 b=1"));
        body["metadata"]["annotations"] = case.part("metadata")["annotations"].clone();
        body
    });
    assert_eq!(
        case.conflict("kubectl", data("a=3")).message,
        "Apply failed with 1 conflict: conflict with \"other\" using v1: .data.a"
    );
}

#[test]
fn what_cannot_be_applied_is_refused() {
    let refused = |config: Value| {
        apply(&CONFIG_MAP, writer("one"), None, Apply { config: &config, force: false })
            .unwrap_err()
    };
    let status = refused(json!({"apiVersion": "v2", "kind": "ConfigMap"}));
    assert_eq!(
        (status.code, status.message.as_str()),
        (400, "invalid object type: /v2, Kind=ConfigMap")
    );
    let status = refused(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": []}}),
    );
    assert_eq!((status.code, status.message.as_str()), (400, "metadata.managedFields must be nil"));
    let status = refused(json!({"apiVersion": "v1", "kind": "ConfigMap", "dato": {},
        "metadata": {"name": "a", "namespace": "b"}}));
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            500,
            "failed to create typed patch object (b/a; /v1, Kind=ConfigMap): .dato: field not declared in \
               schema"
        )
    );
}

#[test]
fn managers_are_named_by_the_request_or_the_agent() {
    for (field, agent, name) in [
        ("me", "kubectl/v1.32 (linux)", "me"),
        ("", "kubectl/v1.32 (linux)", "kubectl"),
        ("", "curl", "curl"),
        ("", "", ""),
        ("", "a\u{7}b/x", "ab"),
    ] {
        assert_eq!(manager(field, agent), name);
    }
    assert_eq!(manager("", &"x".repeat(200)).len(), MANAGER_BYTES_MAX);
    assert_eq!(check_manager("fine"), None);
    assert!(check_manager(&"x".repeat(129)).unwrap().starts_with("Too long"));
    assert!(check_manager("a\nb").unwrap().starts_with("Invalid value"));
}

/// Nobody can have the server compare every item of a list with every other one.
#[test]
fn lists_of_fifty_thousand_items_are_compared_and_merged() {
    let names = |order: &mut dyn Iterator<Item = usize>| -> Value {
        order.map(|name| Value::from(format!("a/{name}"))).collect()
    };
    let keyed = |order: &mut dyn Iterator<Item = usize>| -> Value {
        order.map(|port| json!({"port": port, "protocol": "TCP"})).collect()
    };
    let part = |order: &dyn Fn() -> Box<dyn Iterator<Item = usize>>| json!({"metadata": {"finalizers": names(&mut order())}, "spec": {"ports": keyed(&mut order())}});
    let mut case = Case::new(&SERVICE);
    case.apply("one", part(&|| Box::new((0..50_000).rev())));
    case.apply("two", part(&|| Box::new(0..50_000)));
    let old = case.live.clone().unwrap();
    let mut new = old.clone();
    new.set("/metadata/finalizers", names(&mut (10..50_010)));
    update(&SERVICE, writer("three"), Some(&old), &mut new);
    let last = new.list(POINTER).last().unwrap();
    let taken = last["fieldsV1"]["f:metadata"]["f:finalizers"].as_object().unwrap();
    assert_eq!(taken.keys().filter(|key| *key != ".").count(), 10);
}

#[test]
fn one_element_written_in_two_ways_is_one() {
    let twice = json!({"k:{\"a\":1}": {"f:x": {}}, "k:{ \"a\": 1}": {".": {}, "f:y": {}}});
    let set = FieldSet::from_value(&twice).unwrap();
    assert_eq!(set.to_value(), json!({"k:{\"a\":1}": {".": {}, "f:x": {}, "f:y": {}}}));
    assert_eq!(set.union(&set), set);
}
