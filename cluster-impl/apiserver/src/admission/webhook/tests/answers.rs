//! What comes of what webhooks answer, well or badly.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_nothing_is_written() {
    let (world, hooks) = world().await;
    for (status, code, message) in [
        (json!({"message": "not today"}), 400, "denied the request: not today"),
        (
            json!({"message": "gone", "code": 410, "reason": "Gone"}),
            410,
            "denied the request: gone",
        ),
        (json!({"reason": "Forbidden", "code": 403}), 403, "denied the request: Forbidden"),
        (json!({"code": 200, "status": "Success"}), 400, "denied the request without explanation"),
        (json!({"code": 7000}), 400, "denied the request without explanation"),
        (Value::Null, 400, "denied the request without explanation"),
    ] {
        for path in [MUTATING, VALIDATING] {
            let answer = status.clone();
            hooks.reply("/deny", move |review| denied(review, answer.clone()));
            configure(&world, path, "a", &[hook("deny", json!({}))]).await;
            let (found, answer) = world.call(Method::POST, MAPS, &config_map("a", "1")).await;
            assert_eq!(found, code, "{answer}");
            let expected = format!("admission webhook \"deny.example.com\" {message}");
            assert_eq!(
                (text(&answer["message"]), text(&answer["status"])),
                (&*expected, "Failure")
            );
            assert_eq!(world.call(Method::GET, &format!("{MAPS}/a"), &Value::Null).await.0, 404);
            remove(&world, path, "a").await;
        }
    }
    world.create(MAPS, config_map("a", "1")).await;
}

/// What a webhook does, whether its URL is told, and what is said.
const WRONG: &[(&str, bool, &str)] = &[
    ("hang", true, "context deadline exceeded"),
    ("stall", true, "context deadline exceeded"),
    ("endless", true, "the answer is larger than 6291456 bytes"),
    ("refused", true, "dial tcp 10.0.0.1:443: connect: connection refused"),
    (
        "tls",
        true,
        "tls: failed to verify certificate: x509: certificate signed by unknown \
        authority",
    ),
    ("close", true, "EOF"),
    (
        "garbage",
        false,
        "failed to call webhook: couldn't get version/kind; json parse error: \
        expected value at line 1 column 1",
    ),
    (
        "list",
        false,
        "failed to call webhook: couldn't get version/kind; json parse error: the \
        answer is no object",
    ),
    (
        "empty",
        false,
        "failed to call webhook: couldn't get version/kind; json parse error: EOF \
        while parsing a value at line 1 column 0",
    ),
    ("cut", false, "failed to call webhook: couldn't get version/kind; json parse error: "),
    ("404", false, "failed to call webhook: the server could not find the requested resource"),
    (
        "500",
        false,
        "failed to call webhook: an error on the server (\"it is on fire\") has \
        prevented the request from succeeding",
    ),
    (
        "503",
        false,
        "failed to call webhook: the server is currently unable to handle the \
        request",
    ),
    (
        "302",
        false,
        "failed to call webhook: the server rejected our request for an unknown \
        reason",
    ),
    ("uid", false, "expected response.uid=\""),
    ("odd", false, "response.allowed must be a boolean"),
    ("absent", false, "webhook response was absent"),
    (
        "version",
        false,
        "expected webhook response of admission.k8s.io/v1, \
        Kind=AdmissionReview, got admission.k8s.io/v2, Kind=AdmissionReview",
    ),
    (
        "kind",
        false,
        "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, \
        got admission.k8s.io/v1, Kind=Pod",
    ),
    ("base64", false, "response.patch is no base64"),
    ("untyped", false, "webhook returned response.patch but not response.patchType"),
    ("no-patch", false, "webhook returned response.patchType but not response.patch"),
    ("merge", false, "webhook returned invalid response.patchType of \"MergePatch\""),
];

/// Whatever a webhook does instead of answering: the write is refused within its time, or passes if
/// failures are to be ignored.
#[tokio::test(start_paused = true)]
async fn what_a_webhook_does_wrong_is_told_within_its_time() {
    let (world, _) = world().await;
    let post = |path: &str| format!("Post \"https://hooks.example.com/{path}?timeout=3s\"");
    let invalid = "received invalid webhook response: ";
    for (path, at, why) in WRONG.iter().copied() {
        configure(&world, MUTATING, "a", &[hook(path, json!({"timeoutSeconds": 3}))]).await;
        let began = tokio::time::Instant::now();
        let (code, answer) = world.call(Method::POST, MAPS, &config_map(path, "1")).await;
        assert!(began.elapsed() <= Duration::from_secs(3), "{path} took {:?}", began.elapsed());
        assert_eq!((code, text(&answer["reason"])), (500, "InternalError"), "{answer}");
        let start =
            format!("Internal error occurred: failed calling webhook \"{path}.example.com\": ");
        let said = text(&answer["message"]).strip_prefix(&start).unwrap_or_default();
        match at {
            true => assert_eq!(said, format!("failed to call webhook: {}: {why}", post(path))),
            false => {
                let said = said.strip_prefix(invalid).unwrap_or(said);
                assert!(said.starts_with(why), "{said}");
            }
        }
        let at = format!("{MAPS}/{path}");
        assert_eq!(world.call(Method::GET, &at, &Value::Null).await.0, 404);
        remove(&world, MUTATING, "a").await;
        let ignoring = json!({"timeoutSeconds": 3, "failurePolicy": "Ignore"});
        configure(&world, MUTATING, "a", &[hook(path, ignoring)]).await;
        let created = world.create(MAPS, config_map(path, "1")).await;
        assert_eq!(created["data"], json!({"key": "1"}), "nothing of it is lost");
        remove(&world, MUTATING, "a").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_patch_changes_what_is_written() {
    let (world, hooks) = world().await;
    hooks.reply("/change", |review| {
        patched(review, &json!([{"op": "add", "path": "/data/by", "value": "webhook"}]))
    });
    configure(&world, MUTATING, "a", &[hook("change", json!({}))]).await;
    let created = world.create(MAPS, config_map("a", "1")).await;
    assert_eq!(created["data"], json!({"key": "1", "by": "webhook"}));
    assert_eq!(world.get(&format!("{MAPS}/a")).await, created);
    let updated =
        world.patch(&format!("{MAPS}/a"), json!({"data": {"key": "2", "by": null}})).await;
    assert_eq!(updated["data"], json!({"key": "2", "by": "webhook"}));
    let path = format!("{MAPS}?dryRun=All");
    let dry = world.create(&path, config_map("b", "1")).await;
    assert_eq!(dry["data"]["by"], "webhook");
    assert!(hooks.requests().last().unwrap()["dryRun"].as_bool().unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_a_webhook_adds_gets_defaults_and_passes_validation() {
    let (world, hooks) = world().await;
    let of_pods = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["pods"]}]});
    hooks.reply("/sidecar", |review| {
        let container =
            json!({"name": "sidecar", "image": "sidecar:1", "ports": [{"containerPort": 80}]});
        patched(
            review,
            &json!([{"op": "add", "path": "/spec/initContainers", "value": [container]}]),
        )
    });
    configure(&world, MUTATING, "a", &[hook("sidecar", of_pods.clone())]).await;
    let created = world.create(PODS, pod("web")).await;
    let added = &created["spec"]["initContainers"][0];
    assert_eq!(
        (text(&added["imagePullPolicy"]), text(&added["terminationMessagePolicy"])),
        ("IfNotPresent", "File")
    );
    assert_eq!(added["ports"][0]["protocol"], "TCP");
    hooks.reply("/sidecar", |review| {
        patched(
            review,
            &json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "main"}}]),
        )
    });
    let (code, answer) = world.call(Method::POST, PODS, &pod("other")).await;
    assert_eq!((code, text(&answer["reason"])), (422, "Invalid"), "{answer}");
    assert!(text(&answer["message"]).contains("spec.containers[1]"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_makes_no_sense_is_an_error_and_loses_nothing() {
    let (world, hooks) = world().await;
    let kept = world.create(MAPS, config_map("kept", "1")).await;
    let patch = Arc::new(Mutex::new(Value::Null));
    let given = patch.clone();
    hooks.reply("/change", move |review| patched(review, &given.lock().unwrap()));
    configure(&world, MUTATING, "a", &[hook("change", json!({}))]).await;
    let failed = "admission webhook \"change.example.com\" returned a patch that fails: ";
    for (change, code, why) in [
        (json!("x"), 500, failed),
        (json!([{"op": "frob", "path": "/data"}]), 500, failed),
        (json!([{"op": "remove", "path": "/nowhere"}]), 500, failed),
        (json!([{"op": "test", "path": "/data/key", "value": "9"}]), 500, failed),
        (json!([{"op": "replace", "path": "", "value": []}]), 500, failed),
        (json!([{"op": "replace", "path": "", "value": null}]), 500, failed),
        (
            json!([{"op": "remove", "path": "/metadata"}]),
            500,
            "it takes away the object's metadata",
        ),
        (json!([{"op": "replace", "path": "/metadata", "value": "x"}]), 500, failed),
        (json!([{"op": "replace", "path": "/data", "value": [1]}]), 500, failed),
        (json!([{"op": "replace", "path": "/data/key", "value": 1}]), 500, failed),
        (json!([{"op": "replace", "path": "/kind", "value": "Secret"}]), 500, "cannot be changed"),
        (
            json!([{"op": "replace", "path": "/metadata/name", "value": "b"}]),
            422,
            "metadata.name: Invalid value: \"b\": field is immutable",
        ),
        (json!([{"op": "remove", "path": "/metadata/name"}]), 422, "field is immutable"),
        (
            json!([{"op": "replace", "path": "/metadata/namespace", "value": "kube-system"}]),
            422,
            "metadata.namespace: Invalid value: \"kube-system\": field is immutable",
        ),
        (
            json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "not valid!"}}]),
            422,
            "metadata.labels",
        ),
    ] {
        *patch.lock().unwrap() = change.clone();
        for (method, path, body) in [
            (Method::POST, MAPS.to_owned(), config_map("a", "1")),
            (Method::PUT, format!("{MAPS}/kept"), config_map("kept", "2")),
        ] {
            let (found, answer) = world.call(method, &path, &body).await;
            assert_eq!(found, code, "{change}: {answer}");
            assert!(text(&answer["message"]).contains(why), "{change}: {answer}");
        }
    }
    assert_eq!(world.call(Method::GET, &format!("{MAPS}/a"), &Value::Null).await.0, 404);
    assert_eq!(world.get(&format!("{MAPS}/kept")).await, kept);
    // What the server keeps in metadata stays as it is.
    *patch.lock().unwrap() = json!([
        {"op": "replace", "path": "/metadata/uid", "value": "mine"},
        {"op": "replace", "path": "/metadata/creationTimestamp", "value": "2000-01-01T00:00:00Z"},
        {"op": "remove", "path": "/metadata/managedFields"},
        {"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}},
    ]);
    let updated = world.update(&format!("{MAPS}/kept"), &config_map("kept", "2")).await;
    assert_eq!(updated["metadata"]["uid"], kept["metadata"]["uid"]);
    assert_eq!(updated["metadata"]["annotations"], json!({"a": "b"}));
    assert!(updated["metadata"]["managedFields"].is_array());
}

#[tokio::test(start_paused = true)]
async fn webhooks_are_asked_in_order_and_again_if_they_want() {
    let (world, hooks) = world().await;
    for name in ["one", "two", "three"] {
        hooks.reply(&format!("/{name}"), move |review| {
            let value = text(&review["request"]["object"]["data"]["key"]).to_owned();
            patched(
                review,
                &json!([{"op": "replace", "path": "/data/key",
                "value": format!("{value} {name}")}]),
            )
        });
    }
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    configure(&world, MUTATING, "b", &[hook("two", again.clone()), hook("three", json!({}))]).await;
    configure(&world, MUTATING, "a", &[hook("one", again)]).await;
    let created = world.create(MAPS, config_map("a", "0")).await;
    assert_eq!(created["data"]["key"], "0 one two three one two");
    remove(&world, MUTATING, "b").await;
    let created = world.create(MAPS, config_map("b", "0")).await;
    assert_eq!(created["data"]["key"], "0 one", "nobody changed it after that");
}

#[tokio::test(start_paused = true)]
async fn validating_webhooks_are_asked_at_once_after_all_changes() {
    let (world, hooks) = world().await;
    hooks.reply("/change", |review| {
        patched(review, &json!([{"op": "add", "path": "/data/by", "value": "webhook"}]))
    });
    configure(&world, MUTATING, "a", &[hook("change", json!({}))]).await;
    let slow = json!({"timeoutSeconds": 5, "failurePolicy": "Ignore"});
    let all = [hook("hang", slow.clone()), hook("stall", slow), hook("allow", json!({}))];
    configure(&world, VALIDATING, "a", &all).await;
    let began = tokio::time::Instant::now();
    world.create(MAPS, config_map("a", "1")).await;
    assert_eq!(began.elapsed().as_secs(), 5, "they wait together");
    let requests = hooks.requests();
    assert_eq!(requests.len(), 4);
    assert!(requests[1..].iter().all(|one| one["object"]["data"]["by"] == "webhook"));
    // A validating webhook changes nothing.
    remove(&world, VALIDATING, "a").await;
    configure(&world, VALIDATING, "a", &[hook("change", json!({}))]).await;
    let (code, answer) = world.call(Method::POST, MAPS, &config_map("b", "1")).await;
    assert_eq!(code, 500);
    let why = "validating webhook may not return response.patch";
    assert!(text(&answer["message"]).ends_with(why), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn warnings_and_annotations_are_passed_on() {
    let (world, hooks) = world().await;
    hooks.reply("/warn", |review| {
        let mut answer = allowed(review);
        answer["response"]["warnings"] = json!(["mind the \"gap\""]);
        answer["response"]["auditAnnotations"] = json!({"seen": "yes"});
        answer
    });
    configure(&world, VALIDATING, "a", &[hook("warn", json!({}))]).await;
    world.audit();
    let body = Bytes::from(config_map("a", "1").to_string());
    let response = world.send(Method::POST, MAPS, &[], body).await;
    assert_eq!(response.headers()["warning"], "299 - \"mind the \\\"gap\\\"\"");
    let line = world.audit().pop().unwrap();
    assert_eq!(line.annotations["warn.example.com/seen"], "yes");
}
