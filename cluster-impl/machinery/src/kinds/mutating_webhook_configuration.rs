//! MutatingWebhookConfiguration.

use super::validating_webhook_configuration::{self, VALIDATING_WEBHOOK_CONFIGURATION};
use super::{Kind, PLAIN};

/// MutatingWebhookConfiguration.
pub static MUTATING_WEBHOOK_CONFIGURATION: Kind = Kind {
    id: "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    group: "admissionregistration.k8s.io",
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    namespaced: false,
    has_generation: true,
    default: |object| validating_webhook_configuration::default(object, true),
    validate: |object, old| validating_webhook_configuration::validate(object, old, true),
    columns: VALIDATING_WEBHOOK_CONFIGURATION.columns,
    cells: |object, now| (VALIDATING_WEBHOOK_CONFIGURATION.cells)(object, now),
    ..PLAIN
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::found;
    use super::*;
    use crate::Object;

    #[test]
    fn reinvocation_is_defaulted_and_checked() {
        let hook = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://a"}});
        let mut object = Object(json!({"metadata": {"name": "a"}, "webhooks": [hook, hook]}));
        (MUTATING_WEBHOOK_CONFIGURATION.default)(&mut object);
        assert_eq!(object.text("/webhooks/0/reinvocationPolicy"), "Never");
        object.0["webhooks"][0]["reinvocationPolicy"] = "Often".into();
        assert_eq!(
            found(&MUTATING_WEBHOOK_CONFIGURATION, &object, None),
            [
                "NotSupported webhooks[0].reinvocationPolicy: Unsupported value: \"Often\": \
                 supported values: \"IfNeeded\", \"Never\"",
                "Duplicate webhooks[1].name: Duplicate value: \"a.b.c\"",
            ]
        );
    }
}
