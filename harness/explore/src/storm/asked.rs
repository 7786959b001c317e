//! What a storm's steps ask for is what its end expects: also when steps were dropped or changed.
//!
//! Without this a storm could be shrunk to one that scales nothing and still expects what nobody asks.

use serde_json::Value;

use super::ground::DEPLOYMENTS;

/// The name of the check that a Deployment has the replicas that were asked for.
pub(super) fn check(deployment: &str) -> String {
    format!("{deployment}-asked")
}

/// The name of the check that all of a Deployment's replicas are ready.
pub(super) fn ready(deployment: &str) -> String {
    format!("{deployment}-ready")
}

/// Whether so many replicas are what is asked of a Deployment.
pub(super) fn condition(deployment: &str, replicas: u64) -> String {
    format!(
        "objects.deployments.exists(d, d.metadata.name == '{deployment}' && d.spec.replicas == {replicas})"
    )
}

/// Makes the checks of a changed storm expect what its steps ask for; of a Deployment that is not
/// given any more nothing is expected. Other documents stay as they are.
pub fn mend(document: &mut Value) {
    let given = document["spec"]["given"].as_array().cloned().unwrap_or_default();
    let Some(steps) = document["spec"]["steps"].as_array_mut() else { return };
    for name in DEPLOYMENTS {
        let checks = [check(name), ready(name)];
        if !steps.iter().any(|step| step["as"] == checks[0].as_str()) {
            continue;
        }
        let manifest = given.iter().map(|given| &given["manifest"]).find(|manifest| {
            manifest["kind"] == "Deployment" && manifest["metadata"]["name"] == name
        });
        let Some(manifest) = manifest else {
            steps.retain(|step| !checks.iter().any(|check| step["as"] == check.as_str()));
            continue;
        };
        let scaled = steps.iter().rfind(|step| step["scale"]["deployment"] == name);
        let scaled = scaled.map(|step| &step["scale"]["replicas"]);
        let asked = scaled.unwrap_or(&manifest["spec"]["replicas"]).as_u64().unwrap_or(1);
        for step in steps.iter_mut().filter(|step| step["as"] == checks[0].as_str()) {
            step["settles"]["cel"] = condition(name, asked).into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn storm(given: &[u64], scales: &[u64]) -> Value {
        let given: Vec<Value> = given
            .iter()
            .map(|replicas| {
                json!({"manifest": {
                    "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": replicas},
                }})
            })
            .collect();
        let mut steps: Vec<Value> = scales
            .iter()
            .map(|replicas| json!({"scale": {"deployment": "web", "replicas": replicas}}))
            .collect();
        steps.push(json!({"settles": {"cel": condition("web", 6)}, "as": "web-asked"}));
        steps.push(json!({"settles": {"cel": "ready"}, "as": "web-ready"}));
        json!({"spec": {"given": given, "steps": steps}})
    }

    fn mended(mut document: Value) -> Value {
        mend(&mut document);
        document
    }

    #[test]
    fn what_is_expected_follows_from_what_is_asked() {
        let whole = storm(&[3], &[2, 6]);
        assert_eq!(mended(whole.clone()), whole);
        for (given, scales, asked) in [(3, &[2][..], 2), (3, &[], 3), (1, &[6, 1], 1)] {
            let mended = mended(storm(&[given], scales));
            let check = &mended["spec"]["steps"][scales.len()];
            assert_eq!(check["settles"]["cel"], condition("web", asked), "{given} {scales:?}");
        }
    }

    #[test]
    fn nothing_is_expected_of_what_is_not_given() {
        let mended = mended(storm(&[], &[4]));
        assert_eq!(
            mended["spec"]["steps"],
            json!([{"scale": {"deployment": "web", "replicas": 4}}])
        );
        let other = json!({"spec": {"steps": [{"settles": {"cel": "x"}, "as": "web-ready"}]}});
        assert_eq!(self::mended(other.clone()), other);
    }
}
