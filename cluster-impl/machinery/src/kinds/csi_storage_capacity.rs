//! CSIStorageCapacity.

use super::{Kind, NAME, PLAIN, column};
use crate::validation::{Causes, metadata, names, selector};
use crate::{Cause, Object, Quantity};

/// CSIStorageCapacity.
pub static CSI_STORAGE_CAPACITY: Kind = Kind {
    id: "csistoragecapacities.storage.k8s.io",
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    validate,
    columns: &[NAME, column("StorageClassName", "string", 0), column("Capacity", "string", 0)],
    cells: |object, _| {
        vec![
            object.name().into(),
            object.text("/storageClassName").into(),
            object.text("/capacity").into(),
        ]
    },
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    selector::validate(&mut causes, &object.0["nodeTopology"], "nodeTopology");
    causes.name("storageClassName", object.text("/storageClassName"), names::dns_subdomain);
    if let Some(capacity) = Quantity::from_value(&object.0["capacity"])
        && capacity.is_negative()
    {
        let why = "must be greater than or equal to 0";
        causes.invalid("capacity", capacity.to_string(), why);
    }
    if let Some(old) = old {
        for field in ["nodeTopology", "storageClassName"] {
            causes.immutable(field, &object.0[field], &old.0[field]);
        }
    }
    causes.into_list()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{found, row};
    use super::*;

    #[test]
    fn capacities_are_checked_and_stay() {
        let capacity = |class: &str, amount: &str| {
            Object(json!({
                "metadata": {"name": "a", "namespace": "default"}, "storageClassName": class,
                "capacity": amount,
            }))
        };
        let good = capacity("fast", "10Gi");
        assert_eq!(found(&CSI_STORAGE_CAPACITY, &good, None), [""; 0]);
        assert_eq!(row(&CSI_STORAGE_CAPACITY, &good, 5), "a|fast|10Gi");
        assert_eq!(
            found(&CSI_STORAGE_CAPACITY, &capacity("slow", "-1"), Some(&good)),
            [
                "Invalid capacity: Invalid value: \"-1\": must be greater than or equal to 0",
                "Invalid storageClassName: Invalid value: \"slow\": field is immutable",
            ]
        );
    }
}
