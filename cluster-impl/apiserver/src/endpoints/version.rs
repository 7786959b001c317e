//! `/version`: which Kubernetes this server speaks like.

use serde_json::{Value, json};

/// The version of Kubernetes whose behaviour is promised; the suffix says who promises it.
const GIT_VERSION: &str = "v1.33.0+shakedown";

/// As `kubectl version` reads it.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": GIT_VERSION,
        "emulationMajor": "1", "emulationMinor": "33",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "32",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}
