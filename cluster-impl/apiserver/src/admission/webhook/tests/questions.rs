//! Which webhooks are asked about what, and what they are told.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_webhook_is_told_everything_about_a_write() {
    let (world, hooks) = world().await;
    let all = json!({"rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]});
    configure(&world, VALIDATING, "a", &[hook("allow", all)]).await;
    let mut user = User::new("jane", &["system:masters"]);
    user.uid = "7".to_owned();
    user.extra.insert("team".to_owned(), vec!["shop".to_owned()]);
    let path = format!("{MAPS}?fieldManager=test");
    let (code, created) = world.call_as(&user, Method::POST, &path, &config_map("a", "1")).await;
    assert_eq!(code, 201, "{created}");
    world.patch(&format!("{MAPS}/a"), json!({"data": {"key": "2"}})).await;
    world.delete(&format!("{MAPS}/a")).await;
    let requests = hooks.requests();
    assert_eq!(requests.len(), 3);
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    for request in &requests {
        assert_eq!(text(&request["uid"]).len(), 36);
        for (part, value) in [
            ("kind", &kind),
            ("requestKind", &kind),
            ("resource", &resource),
            ("requestResource", &resource),
        ] {
            assert_eq!(&request[part], value, "{part}");
        }
        assert_eq!((text(&request["name"]), text(&request["namespace"])), ("a", "default"));
        assert_eq!(request["dryRun"], false);
        assert_eq!(request.get("subResource"), None);
    }
    let [create, update, delete] = &requests[..] else { unreachable!() };
    assert_eq!(create["operation"], "CREATE");
    assert_eq!(
        create["userInfo"],
        json!({"username": "jane", "uid": "7",
        "groups": ["system:masters", "system:authenticated"], "extra": {"team": ["shop"]}})
    );
    assert_eq!(create["object"]["data"]["key"], "1");
    assert_eq!(create["oldObject"], Value::Null);
    assert_eq!(
        create["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1",
        "fieldManager": "test"})
    );
    assert_eq!(
        (&update["operation"], &update["options"]["kind"]),
        (&json!("UPDATE"), &json!("PatchOptions"))
    );
    assert_eq!(
        (&update["object"]["data"]["key"], &update["oldObject"]["data"]["key"]),
        (&json!("2"), &json!("1"))
    );
    assert_eq!((&delete["operation"], &delete["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(delete["oldObject"]["data"]["key"], "2");
}

#[tokio::test(start_paused = true)]
async fn rules_and_selectors_choose_what_is_asked_about() {
    let (world, hooks) = world().await;
    let mut shop = named("v1", "Namespace", "shop");
    shop["metadata"]["labels"] = json!({"tier": "gold"});
    world.create("/api/v1/namespaces", shop).await;
    let mut labelled = config_map("x", "1");
    labelled["metadata"]["labels"] = json!({"app": "web"});
    let shops = "/api/v1/namespaces/shop/configmaps";
    let rules = |part: &str, value: Value| {
        let mut rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["configmaps"]});
        rule[part] = value;
        json!({"rules": [rule]})
    };
    let chosen = |part: &str, selector: Value| json!({part: selector});
    let when =
        |expression: &str| json!({"matchConditions": [{"name": "when", "expression": expression}]});
    let gold = json!({"matchLabels": {"tier": "gold"}});
    for (changes, in_default, in_shop) in [
        (json!({}), true, true),
        (rules("operations", json!(["UPDATE", "DELETE"])), false, false),
        (rules("operations", json!(["*"])), true, true),
        (rules("apiGroups", json!(["apps"])), false, false),
        (rules("apiGroups", json!(["*"])), true, true),
        (rules("apiVersions", json!(["v2"])), false, false),
        (rules("apiVersions", json!(["*"])), true, true),
        (rules("resources", json!(["pods"])), false, false),
        (rules("resources", json!(["*"])), true, true),
        (rules("resources", json!(["*/*"])), true, true),
        (rules("resources", json!(["configmaps/status"])), false, false),
        (rules("resources", json!(["configmaps/*"])), true, true),
        (rules("scope", json!("Cluster")), false, false),
        (rules("scope", json!("Namespaced")), true, true),
        (chosen("namespaceSelector", gold.clone()), false, true),
        (
            chosen(
                "namespaceSelector",
                json!({"matchExpressions": [{"key": "tier",
            "operator": "NotIn", "values": ["gold"]}]}),
            ),
            true,
            false,
        ),
        (chosen("objectSelector", json!({"matchLabels": {"app": "web"}})), true, true),
        (chosen("objectSelector", json!({"matchLabels": {"app": "db"}})), false, false),
        (when("request.namespace == 'shop'"), false, true),
        (when("object.metadata.name == 'x' && oldObject == null"), true, true),
        (when("request.userInfo.username == 'jane'"), false, false),
        (
            when("authorizer.group('').resource('pods').namespace('shop').check('list').allowed()"),
            true,
            true,
        ),
        (when("request.operation == 'CREATE' && request.kind.kind == 'ConfigMap'"), true, true),
    ] {
        configure(&world, VALIDATING, "a", &[hook("allow", changes.clone())]).await;
        for (path, expected) in [(MAPS, in_default), (shops, in_shop)] {
            let (code, answer) = world.call(Method::POST, path, &labelled).await;
            assert_eq!(code, 201, "{answer}");
            assert_eq!(hooks.asked().len(), usize::from(expected), "{changes} {path}");
        }
        remove(&world, VALIDATING, "a").await;
        for path in [MAPS, shops] {
            world.delete(&format!("{path}/x")).await;
        }
    }
    // The labels of a namespace that is made are those that it is to have.
    let namespaces = json!({"namespaceSelector": gold, "rules": [{"operations": ["CREATE"],
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["namespaces"]}]});
    configure(&world, VALIDATING, "a", &[hook("allow", namespaces)]).await;
    world.create("/api/v1/namespaces", named("v1", "Namespace", "plain")).await;
    let mut other = named("v1", "Namespace", "other");
    other["metadata"]["labels"] = json!({"tier": "gold"});
    world.create("/api/v1/namespaces", other).await;
    assert_eq!(hooks.asked(), ["/allow CREATE other"]);
}

#[tokio::test(start_paused = true)]
async fn conditions_that_cannot_be_worked_out_follow_the_failure_policy() {
    let (world, hooks) = world().await;
    let broken = [
        json!({"name": "a", "expression": "object.data.missing == '1'"}),
        json!({"name": "b", "expression": "true"}),
    ];
    let fail = hook("allow", json!({"matchConditions": broken}));
    configure(&world, VALIDATING, "a", &[fail]).await;
    let (code, answer) = world.call(Method::POST, MAPS, &config_map("a", "1")).await;
    assert_eq!(code, 403);
    assert_eq!(
        text(&answer["message"]),
        "configmaps \"a\" is forbidden: expression 'object.data.missing == '1'' resulted in error: \
         no such key: missing"
    );
    remove(&world, VALIDATING, "a").await;
    let ignore = hook("allow", json!({"matchConditions": broken, "failurePolicy": "Ignore"}));
    configure(&world, VALIDATING, "a", &[ignore]).await;
    world.create(MAPS, config_map("a", "1")).await;
    remove(&world, VALIDATING, "a").await;
    // One that is false decides, whatever is wrong with the others.
    let list = [broken[0].clone(), json!({"name": "c", "expression": "false"})];
    configure(&world, VALIDATING, "a", &[hook("allow", json!({"matchConditions": list}))]).await;
    world.create(MAPS, config_map("b", "1")).await;
    assert_eq!(hooks.asked(), [""; 0]);
    // What does not compile is refused when it is written.
    let mut body = named("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "b");
    body["webhooks"] = json!([hook(
        "allow",
        json!({"matchConditions": [
        {"name": "a", "expression": "object.data ="}, {"name": "b", "expression": "params.x"},
        {"name": "c", "expression": "'text'"}, {"name": "d", "expression": "request.frob"}]})
    )]);
    let (code, answer) = world.call(Method::POST, VALIDATING, &body).await;
    assert_eq!(code, 422, "{answer}");
    let causes = answer["details"]["causes"].as_array().unwrap();
    let fields: Vec<_> = causes.iter().map(|cause| text(&cause["field"])).collect();
    let expected: Vec<_> =
        (0..4).map(|at| format!("webhooks[0].matchConditions[{at}].expression")).collect();
    assert_eq!(fields, expected);
    for (at, why) in [
        "Syntax error",
        "undeclared reference to 'params'",
        "must evaluate to bool",
        "undefined field 'frob'",
    ]
    .iter()
    .enumerate()
    {
        assert!(text(&causes[at]["message"]).contains(why), "{}", causes[at]);
    }
}

#[tokio::test(start_paused = true)]
async fn no_webhook_stands_between_an_administrator_and_the_webhooks() {
    let (world, hooks) = world().await;
    let everything = json!({"rules": [{"operations": ["*"], "apiGroups": ["*"],
        "apiVersions": ["*"], "resources": ["*/*"]}]});
    hooks.reply("/deny", |review| denied(review, Value::Null));
    configure(&world, VALIDATING, "a", &[hook("deny", everything.clone())]).await;
    configure(&world, MUTATING, "a", &[hook("deny", everything)]).await;
    assert_eq!(world.call(Method::POST, MAPS, &config_map("a", "1")).await.0, 400);
    let at = |path: &str| format!("{path}/a");
    world.patch(&at(MUTATING), json!({"metadata": {"labels": {"a": "b"}}})).await;
    world.delete(&at(MUTATING)).await;
    world.delete(&at(VALIDATING)).await;
    world.env.sleep(Duration::from_secs(1)).await;
    world.create(MAPS, config_map("a", "1")).await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_does_not_reach_a_webhook_with_effects() {
    let (world, hooks) = world().await;
    let effects = json!({"sideEffects": "NoneOnDryRun"});
    configure(&world, VALIDATING, "a", &[hook("allow", effects)]).await;
    let dry = format!("{MAPS}?dryRun=All");
    world.create(&dry, config_map("a", "1")).await;
    assert_eq!(hooks.asked(), ["/allow CREATE a"]);
    assert_eq!(world.call(Method::GET, &format!("{MAPS}/a"), &Value::Null).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn old_reviews_and_subresources_are_asked_about_too() {
    let (world, hooks) = world().await;
    hooks.reply("/old", |review| {
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1beta1");
        json!({"response": {"allowed": false, "status": {"message": "no"}}})
    });
    let old = json!({"admissionReviewVersions": ["v9", "v1beta1"], "rules": [{
        "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/binding", "pods/eviction"]}]});
    world.create(PODS, pod("web")).await;
    configure(&world, VALIDATING, "a", &[hook("old", old)]).await;
    let target = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n"}});
    let (code, answer) = world.call(Method::POST, &format!("{PODS}/web/binding"), &target).await;
    assert_eq!(
        (code, text(&answer["message"])),
        (400, "admission webhook \"old.example.com\" denied the request: no")
    );
    let (code, _) = world.call(Method::POST, &format!("{PODS}/web/eviction"), &json!({})).await;
    assert_eq!(code, 400);
    let requests = hooks.requests();
    assert_eq!(requests[0]["kind"], json!({"group": "", "version": "v1", "kind": "Binding"}));
    assert_eq!((text(&requests[0]["subResource"]), text(&requests[0]["name"])), ("binding", "web"));
    assert_eq!(requests[0]["object"]["target"]["name"], "n");
    assert_eq!(
        requests[1]["kind"],
        json!({"group": "policy", "version": "v1", "kind": "Eviction"})
    );
}

#[tokio::test(start_paused = true)]
async fn another_version_of_a_kind_is_asked_about_in_the_version_of_the_rule() {
    let (world, hooks) = world().await;
    let v2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"],
        "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"]}]);
    let mut scaler = named("autoscaling/v2", "HorizontalPodAutoscaler", "a");
    scaler["spec"] = json!({"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}]});
    let exact = json!({"rules": rules, "matchPolicy": "Exact"});
    configure(&world, MUTATING, "a", &[hook("change", exact)]).await;
    world.create(v2, scaler.clone()).await;
    assert_eq!(hooks.asked(), [""; 0]);
    remove(&world, MUTATING, "a").await;
    world.delete(&format!("{v2}/a")).await;
    hooks.reply("/change", |review| {
        assert_eq!(review["request"]["object"]["apiVersion"], "autoscaling/v1");
        patched(
            review,
            &json!([{"op": "replace",
            "path": "/spec/targetCPUUtilizationPercentage", "value": 70}]),
        )
    });
    configure(&world, MUTATING, "a", &[hook("change", json!({"rules": rules}))]).await;
    let created = world.create(v2, scaler).await;
    let target = &created["spec"]["metrics"][0]["resource"]["target"];
    assert_eq!(
        (&created["apiVersion"], &target["averageUtilization"]),
        (&json!("autoscaling/v2"), &json!(70))
    );
    let request = hooks.requests().pop().unwrap();
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!("v1"), &json!("v2"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_is_reached_at_its_ready_endpoints() {
    let (world, hooks) = world().await;
    let service = json!({"clientConfig": {"caBundle": "Y2E=", "service": {"name": "hook",
        "namespace": "default", "path": "/allow", "port": 8443}}});
    configure(&world, VALIDATING, "a", &[hook("service", service)]).await;
    let fails = async |name: &str| {
        let (_, answer) = world.call(Method::POST, MAPS, &config_map(name, "1")).await;
        text(&answer["message"]).rsplit_once("timeout=10s\": ").unwrap().1.to_owned()
    };
    assert_eq!(fails("a").await, "service \"hook\" not found");
    let mut object = named("v1", "Service", "hook");
    object["spec"] = json!({"clusterIP": "10.96.0.77", "selector": {"app": "hook"}, "ports": [{"name": "https", "port": 443},
        {"name": "hook", "port": 8443, "targetPort": "tls"}]});
    world.create("/api/v1/namespaces/default/services", object).await;
    world.env.sleep(Duration::from_secs(1)).await;
    assert_eq!(fails("a").await, "no endpoints available for service \"hook\"");
    let mut slice = named("discovery.k8s.io/v1", "EndpointSlice", "hook-1");
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "hook"});
    slice["addressType"] = "IPv4".into();
    slice["ports"] = json!([{"name": "https", "port": 1, "protocol": "TCP"},
        {"name": "hook", "port": 9443, "protocol": "TCP"}]);
    slice["endpoints"] = json!([
        {"addresses": ["10.1.0.9"], "conditions": {"ready": false}},
        {"addresses": ["10.1.0.2"], "conditions": {"ready": true}}]);
    world.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    world.env.sleep(Duration::from_secs(1)).await;
    world.create(MAPS, config_map("a", "1")).await;
    let peers = std::mem::take(&mut *hooks.peers.lock().unwrap());
    assert_eq!(
        peers,
        [Peer {
            host: "10.1.0.2".to_owned(),
            port: 9443,
            server_name: "hook.default.svc".to_owned(),
            trust: Trust::Authorities(b"ca".to_vec()),
            is_identified: false,
        }]
    );
    // Endpoints that cannot be reached are passed over; the service's own address comes last.
    let unreachable = json!({"clientConfig": {"service": {"name": "hook", "namespace": "default",
        "path": "/refused", "port": 8443}}});
    remove(&world, VALIDATING, "a").await;
    configure(&world, VALIDATING, "a", &[hook("service", unreachable)]).await;
    assert_eq!(fails("b").await, "dial tcp 10.0.0.1:443: connect: connection refused");
    let tried: Vec<_> =
        hooks.peers.lock().unwrap().iter().map(|peer| (peer.host.clone(), peer.port)).collect();
    assert_eq!(tried, [("10.1.0.2".to_owned(), 9443), ("10.96.0.77".to_owned(), 8443)]);
}

/// A configuration that is patched, replaced or taken away with others is heeded as it is then.
#[tokio::test(start_paused = true)]
async fn configurations_are_heeded_as_they_are() {
    let (world, hooks) = world().await;
    hooks.reply("/deny", |review| denied(review, Value::Null));
    hooks.reply("/change", |review| {
        patched(review, &json!([{"op": "add", "path": "/data/by", "value": "webhook"}]))
    });
    configure(&world, VALIDATING, "a", &[hook("deny", json!({}))]).await;
    configure(&world, MUTATING, "a", &[hook("change", json!({}))]).await;
    let settled = async || world.env.sleep(Duration::from_secs(1)).await;
    let dry = format!("{MAPS}?dryRun=All");
    let code = async || world.call(Method::POST, &dry, &config_map("a", "1")).await.0;
    assert_eq!(code().await, 400);
    let at = format!("{VALIDATING}/a");
    let mut configuration = world.get(&at).await;
    configuration["webhooks"][0]["rules"][0]["operations"] = json!(["DELETE"]);
    world.update(&at, &configuration).await;
    settled().await;
    assert_eq!(code().await, 201);
    let create = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations",
        "value": ["CREATE"]}]);
    let headers = [("content-type", "application/json-patch+json")];
    let (patched, _) = world.call_with(Method::PATCH, &at, &headers, &create).await;
    assert_eq!(patched, 200);
    settled().await;
    assert_eq!(code().await, 400);
    for path in [VALIDATING, MUTATING] {
        assert_eq!(world.get(path).await["items"].as_array().unwrap().len(), 1);
        world.delete(path).await;
    }
    settled().await;
    let created = world.create(MAPS, config_map("a", "1")).await;
    assert_eq!(created["data"], json!({"key": "1"}));
    let found = world.get("/apis/admissionregistration.k8s.io/v1").await;
    let names: Vec<_> =
        found["resources"].as_array().unwrap().iter().map(|one| text(&one["name"])).collect();
    for name in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
