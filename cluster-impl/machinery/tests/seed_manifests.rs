//! Manifests as people write them, good and bad, through every step of a creation: read, check, decode,
//! prepare, default, validate. Each must come to the end that its heading names. Whether its namespace
//! exists is not asked here; of keys that are there twice the last one counts, as for kubectl.
//!
//! ```text
//! #= 009-quota: refused ResourceQuota in version "v1" cannot be handled as a ResourceQuota: ..
//! #> what kubectl says, where it refuses the manifest by itself
//! apiVersion: v1
//! ```
//!
//! The orchestrator's test `clients` gives the same file to kubectl.

use shakedown_machinery::fields::{self, FieldValidation};
use shakedown_machinery::{Kind, Object, Status};

const MANIFESTS: &str = include_str!("seed_manifests.txt");
const HEADING: &str = "#= ";

/// What creating a manifest comes to, as an API server would do it for `kubectl apply`.
fn create(manifest: &str) -> Result<Object, String> {
    let value = serde_yaml::from_str(manifest).map_err(|error| format!("no YAML: {error}"))?;
    let mut object = Object(value);
    let (version, name) = (object.api_version().to_owned(), object.kind().to_owned());
    let kind =
        Kind::by_name(&version, &name).ok_or_else(|| format!("no kind {name} in {version}"))?;
    let refuse = |status: Status| status.message;
    fields::check(kind, fields::unknown(kind, &object.0), FieldValidation::Strict)
        .map_err(refuse)?;
    fields::decode(kind, &mut object).map_err(refuse)?;
    if kind.namespaced && object.namespace().is_empty() {
        object.set("/metadata/namespace", "default");
    }
    object.set("/metadata/uid", "00000000-0000-4000-8000-000000000001");
    kind.set_defaults(&mut object);
    kind.prepare_new(&mut object);
    let causes = kind.problems(&object, None);
    if causes.is_empty() {
        return Ok(object);
    }
    Err(refuse(Status::invalid(kind.group, kind.kind, object.name(), &causes)))
}

#[test]
fn manifests_come_to_the_end_that_is_expected() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in MANIFESTS.split(HEADING).skip(1) {
        let (heading, manifest) = entry.split_once('\n').expect("a manifest follows its heading");
        let (name, expected) = heading.split_once(": ").expect("a heading names what is expected");
        count += 1;
        let found = create(manifest);
        let is_right = match (&found, expected.strip_prefix("refused ")) {
            (Ok(_), None) => expected == "accepted",
            (Err(why), Some(start)) => why.starts_with(start),
            _ => false,
        };
        if !is_right {
            let found = found.map(|_| "accepted");
            wrong.push(format!("{name}: expected {expected}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(count, 103, "every manifest was looked at");
}

#[test]
fn what_is_accepted_can_be_updated_with_itself() {
    for entry in MANIFESTS.split(HEADING).skip(1) {
        let (heading, manifest) = entry.split_once('\n').expect("a manifest follows its heading");
        let Ok(old) = create(manifest) else { continue };
        let kind = Kind::by_name(old.api_version(), old.kind()).expect("it was created");
        let mut new = old.clone();
        kind.set_defaults(&mut new);
        kind.prepare_replaced(&mut new, &old);
        assert_eq!(new, old, "{heading}: an update without a change changes nothing");
        assert_eq!(kind.problems(&new, Some(&old)), [], "{heading}");
    }
}
