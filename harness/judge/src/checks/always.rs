//! `always`: it is true at every time inside the window.
//!
//! ```yaml
//! always: {deployment: web, status: {readyReplicas: 6}}
//! within: [0s, 60s]
//! after: start
//! ```

use super::{Case, period};
use crate::finding::Judged;

pub(super) fn judge(case: &Case<'_>) -> Judged {
    period::judge(case, false)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, check};

    fn deleted_at(seconds: f64, error: f64) -> String {
        let mut tape = Tape::new(check("always", "pod a", "10s", "45s"));
        tape.at(105.0).pod("b", |_| {});
        tape.at(100.0).moment("kill");
        tape.at(105.0).pod("a", |_| {});
        tape.at(seconds).error(error).gone("pods", "shop/a");
        tape.at(200.0).verdict("step-0/always")
    }

    #[test]
    fn it_must_be_true_inside_the_window_only() {
        assert_eq!(deleted_at(120.0, 0.0), "FAIL");
        assert_eq!(deleted_at(144.9, 0.0), "FAIL");
        assert_eq!(deleted_at(145.1, 0.0), "PASS");
    }

    #[test]
    fn a_window_that_was_not_seen_whole_is_invalid() {
        let mut tape = Tape::new(check("always", "pod a", "0s", "45s"));
        tape.at(90.0).pod("a", |_| {});
        tape.at(100.0).moment("kill");
        assert_eq!(tape.clone().at(140.0).verdict("step-0/always"), "INVALID");
        assert_eq!(tape.at(145.0).verdict("step-0/always"), "PASS");
    }
}
