//! One stored kind under two versions: whatever is done in one form is seen in the other.

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::testing::{World, text};

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "type": "Normal", "reason": "Made", "note": "made it", "action": "Make",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "web"},
        "reportingController": "acme.io/maker", "reportingInstance": "maker-1",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    })
}

fn old_event(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "message": "made it",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"}, "count": 3,
    })
}

#[tokio::test(start_paused = true)]
async fn one_object_has_two_forms() {
    let world = World::new().await;
    let created = world.create(NEW, event("a")).await;
    assert_eq!(
        (text(&created["apiVersion"]), text(&created["note"])),
        ("events.k8s.io/v1", "made it")
    );
    let old = world.get(&format!("{CORE}/a")).await;
    assert_eq!((text(&old["apiVersion"]), text(&old["message"])), ("v1", "made it"));
    assert_eq!(old["metadata"], created["metadata"], "it is one object");
    assert_eq!(old["involvedObject"]["name"], "web");
    assert_eq!(old.get("note"), None);
    world.create(CORE, old_event("b")).await;
    let list = world.get(NEW).await;
    assert_eq!((text(&list["apiVersion"]), text(&list["kind"])), ("events.k8s.io/v1", "EventList"));
    let items = list["items"].as_array().unwrap();
    assert!(
        items.iter().all(|one| one["note"] == "made it" && one["apiVersion"] == "events.k8s.io/v1")
    );
    assert_eq!(items[1]["deprecatedCount"], 3);
    let narrowed = world.get(&format!("{NEW}?fieldSelector=regarding.name%3Dother")).await;
    assert_eq!(narrowed["items"], json!([]));
    let narrowed = world.get(&format!("{NEW}?fieldSelector=regarding.name%3Dweb")).await;
    assert_eq!(narrowed["items"].as_array().unwrap().len(), 2);
    let wrong = format!("{NEW}?fieldSelector=involvedObject.name%3Dweb");
    assert_eq!(world.call(Method::GET, &wrong, &Value::Null).await.0, 400);
    world.delete(&format!("{NEW}/a")).await;
    assert_eq!(world.call(Method::GET, &format!("{CORE}/a"), &Value::Null).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn writes_are_made_and_checked_in_the_form_that_is_asked_for() {
    let world = World::new().await;
    let mut lax = event("a");
    lax["action"] = Value::Null;
    let (code, answer) = world.call(Method::POST, NEW, &lax).await;
    assert_eq!((code, text(&answer["details"]["causes"][0]["field"])), (422, "action"));
    assert_eq!(
        world.call(Method::POST, NEW, &old_event("a")).await.0,
        400,
        "it is of another group"
    );
    let strict = format!("{NEW}?fieldValidation=Strict");
    let mut mixed = event("a");
    mixed["message"] = "x".into();
    assert_eq!(world.call(Method::POST, &strict, &mixed).await.0, 400, "no such field here");
    world.create(NEW, event("a")).await;
    let path = format!("{NEW}/a");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:05.000000Z"}});
    let patched = world.patch(&path, series).await;
    assert_eq!((&patched["series"]["count"], text(&patched["note"])), (&json!(2), "made it"));
    let (code, answer) = world.call(Method::PATCH, &path, &json!({"note": "other"})).await;
    assert_eq!((code, text(&answer["details"]["causes"][0]["field"])), (422, "message"));
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let (code, answer) = world.call_with(Method::PATCH, &path, &strategic, &labels).await;
    assert_eq!((code, text(&answer["apiVersion"])), (200, "events.k8s.io/v1"));
    let mut whole = world.get(&path).await;
    whole["metadata"]["labels"] = json!({"a": "c"});
    let updated = world.update(&path, &whole).await;
    assert_eq!(updated["metadata"]["labels"]["a"], "c");
    assert_eq!(world.get(&format!("{CORE}/a")).await["series"]["count"], 2);
}

#[tokio::test(start_paused = true)]
async fn watches_and_tables_speak_the_form_that_is_asked_for() {
    let world = World::new().await;
    let mut new = world.watch(&format!("{NEW}?watch=true")).await;
    let mut old = world.watch(&format!("{CORE}?watch=true")).await;
    world.create(CORE, old_event("a")).await;
    let (new, old) = (new.next().await.unwrap(), old.next().await.unwrap());
    assert_eq!(
        (text(&new["object"]["note"]), text(&old["object"]["message"])),
        ("made it", "made it")
    );
    assert_eq!(text(&new["object"]["apiVersion"]), "events.k8s.io/v1");
    let whole = format!("{NEW}?includeObject=Object");
    let (_, table) = world.call_with(Method::GET, &whole, &[("accept", TABLE)], &Value::Null).await;
    assert_eq!(table["columnDefinitions"][0]["name"], "Last Seen");
    assert_eq!(table["rows"][0]["object"]["note"], "made it");
    let core = [("accept", TABLE)];
    let (_, before) = world.call_with(Method::GET, CORE, &core, &Value::Null).await;
    assert_eq!(before["rows"][0]["cells"], table["rows"][0]["cells"]);
}

#[tokio::test(start_paused = true)]
async fn protobuf_holds_the_form_that_is_asked_for() {
    let world = World::new().await;
    let accept = [("accept", "application/vnd.kubernetes.protobuf")];
    let mut watch =
        world.send(Method::GET, &format!("{NEW}?watch=true"), &accept, Bytes::new()).await;
    world.create(CORE, old_event("a")).await;
    for (path, is_list) in [(format!("{NEW}/a"), false), (NEW.to_owned(), true)] {
        let answer = world.send(Method::GET, &path, &accept, Bytes::new()).await;
        assert_eq!(answer.headers()["content-type"], "application/vnd.kubernetes.protobuf");
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let value = crate::protobuf::read(&bytes).unwrap();
        assert_eq!(text(&value["apiVersion"]), "events.k8s.io/v1", "{path}");
        let one = if is_list { &value["items"][0] } else { &value };
        assert_eq!(text(&one["note"]), "made it", "{value}");
    }
    let told = watch.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("events.k8s.io/v1"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn both_forms_are_discovered_and_described() {
    let world = World::new().await;
    let list = world.get("/apis/events.k8s.io/v1").await;
    assert_eq!(list["resources"][0]["kind"], "Event");
    let paths = &world.get("/openapi/v3").await["paths"];
    assert!(paths.get("apis/events.k8s.io/v1").is_some());
    let document = world.get("/openapi/v3/apis/events.k8s.io/v1").await;
    let path = "/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}";
    assert!(document["paths"].get(path).is_some());
}
