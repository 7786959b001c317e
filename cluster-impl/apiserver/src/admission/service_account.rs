//! ServiceAccount: a pod that names no account gets `default`.
//!
//! The account's token volume is not mounted, and the account need not exist.

use machinery::Status;

use super::{Operation, Plugin, Review};

pub(super) const PLUGIN: Plugin = Plugin { name: "ServiceAccount", stage: 1, admit };

/// Marks the image of a pod that a kubelet runs on its own account.
const MIRROR: &str = "kubernetes.io/config.mirror";

fn admit(review: &mut Review<'_>) -> Result<(), Status> {
    let Some(pod) = review.pod(&[Operation::Create]) else { return Ok(()) };
    if pod.annotation(MIRROR).is_some() {
        return Ok(());
    }
    // The second field is the old name of the first; upstream keeps both alike.
    let account = match (pod.text("/spec/serviceAccountName"), pod.text("/spec/serviceAccount")) {
        ("", "") => "default".to_owned(),
        ("", old) => old.to_owned(),
        (account, _) => account.to_owned(),
    };
    pod.set("/spec/serviceAccountName", account.as_str());
    pod.set("/spec/serviceAccount", account);
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use machinery::kinds::{CONFIG_MAP, POD};
    use serde_json::json;

    use super::super::tests::created;
    use super::*;

    #[test]
    fn fills_in_the_account() {
        for (spec, expected) in [
            (json!({}), "default"),
            (json!({"serviceAccountName": "web"}), "web"),
            (json!({"serviceAccount": "old"}), "old"),
        ] {
            let mut pod = Object(json!({"metadata": {"name": "a"}, "spec": spec}));
            created(&PLUGIN, &POD, &mut pod).unwrap();
            assert_eq!(pod.text("/spec/serviceAccountName"), expected);
            assert_eq!(pod.text("/spec/serviceAccount"), expected);
        }
        let mut mirror = Object(json!({"metadata": {"annotations": {MIRROR: "x"}}, "spec": {}}));
        let before = mirror.clone();
        created(&PLUGIN, &POD, &mut mirror).unwrap();
        assert_eq!(mirror, before);
        let mut other = Object(json!({"metadata": {"name": "a"}}));
        created(&PLUGIN, &CONFIG_MAP, &mut other).unwrap();
        assert_eq!(other.get("/spec"), None);
    }
}
