//! Server-side apply: what one manager wants, twice, and what another one wants in between.

use machinery::managed_fields::{Apply, Writer, apply};
use machinery::{Object, fields, versions};
use serde_json::Value;

use super::arbitrary::Source;
use super::samples;

pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let kinds: Vec<_> = versions::served().collect();
    let kind = source.pick(&kinds);
    let writer = |manager| Writer { manager, subresource: "", time: "2026-01-01T00:00:00Z" };
    let mut live: Option<Object> = None;
    for manager in ["one", "two", "kubectl", "one"] {
        let mut config = Object(samples::object(kind, &mut source));
        // Nulls go with everything else that does not fit.
        if fields::decode(kind, &mut config).is_err() {
            continue;
        }
        if let Some(metadata) = config.0.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let force = source.once_in(2);
        let after = |live: Option<&Object>, force: bool| {
            apply(kind, writer(manager), live, Apply { config: &config.0, force })
        };
        let Ok(applied) = after(live.as_ref(), force) else { continue };
        // A struct from which all was taken is null, until it is read as its type: upstream makes an
        // empty struct of it where it must be there, and what is stored here is without it until it is
        // applied once more.
        if applied.0.as_object().is_some_and(|all| all.values().any(Value::is_null)) {
            continue;
        }
        // The second time nothing stands in the way any more, and nothing changes.
        let again = after(Some(&applied), false);
        assert_eq!(again.as_ref(), Ok(&applied), "applying twice is applying once");
        live = Some(applied);
    }
}
