//! Priority: a pod's `priorityClassName` as a number.
//!
//! Only the two classes that every cluster has are known; a pod without a class has priority 0.

use machinery::Status;

use super::{Operation, Plugin, Review};
use crate::status;

pub(super) const PLUGIN: Plugin = Plugin { name: "Priority", stage: 3, admit };

/// Classes that every cluster has.
const CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

fn admit(review: &mut Review<'_>) -> Result<(), Status> {
    let (kind, name) = (review.kind, review.key.name.clone());
    let Some(pod) = review.pod(&[Operation::Create]) else { return Ok(()) };
    let class = pod.text("/spec/priorityClassName");
    let priority = match class {
        "" => 0,
        class => match CLASSES.iter().find(|(known, _)| *known == class) {
            Some((_, priority)) => *priority,
            None => {
                let why = format!("no PriorityClass with name {class} was found");
                return Err(status::forbidden(kind, &name, &why));
            }
        },
    };
    if pod.integer("/spec/priority").is_some_and(|given| given != priority) {
        let why = format!(
            "the integer value of priority must not be provided in pod spec; priority admission \
             controller computed {priority} from the given PriorityClass name"
        );
        return Err(status::forbidden(kind, &name, &why));
    }
    pod.set("/spec/priority", priority);
    if pod.text("/spec/preemptionPolicy").is_empty() {
        pod.set("/spec/preemptionPolicy", "PreemptLowerPriority");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use machinery::kinds::POD;
    use serde_json::json;

    use super::super::tests::created;
    use super::*;

    #[test]
    fn classes_become_numbers() {
        for (spec, expected) in [
            (json!({}), Ok(0)),
            (json!({"priority": 0}), Ok(0)),
            (json!({"priority": 7}), Err(403)),
            (json!({"priorityClassName": "system-node-critical"}), Ok(2_000_001_000)),
            (json!({"priorityClassName": "mine"}), Err(403)),
        ] {
            let mut pod = Object(json!({"metadata": {"name": "a"}, "spec": spec}));
            let result = created(&PLUGIN, &POD, &mut pod).map_err(|status| status.code);
            let result = result.map(|()| pod.integer("/spec/priority").unwrap());
            assert_eq!(result, expected, "{spec}");
        }
    }
}
