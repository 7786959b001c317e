//! The wait before a container is started again: 10, 20, 40 s and so on up to 300 s.
//!
//! As upstream's (client-go's flowcontrol.Backoff): the first restart is immediate, each further one
//! waits from the container's end; a container that ran for twice the cap starts from the beginning.

use std::time::Duration;

use env::Timestamp;

/// The first wait.
const FIRST: Duration = Duration::from_secs(10);
/// The longest wait.
pub(crate) const MOST: Duration = Duration::from_secs(300);

/// How long the next restart has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The wait in force.
    pub(crate) wait: Duration,
    /// When it was last raised.
    raised: Timestamp,
}

impl Backoff {
    /// When something that ended at `ended` may be tried again; `None` if the wait is forgotten.
    pub(crate) fn due(&self, ended: Timestamp) -> Option<Timestamp> {
        (!self.is_forgotten(ended)).then(|| ended + self.wait)
    }

    /// The wait after one more try, now, of something that ended at `ended`. Above `most` it does
    /// not go.
    pub(crate) fn raise(
        earlier: Option<&Self>,
        ended: Timestamp,
        now: Timestamp,
        most: Duration,
    ) -> Self {
        let wait = match earlier {
            Some(earlier) if !earlier.is_forgotten(ended) => (earlier.wait * 2).min(most),
            _ => FIRST,
        };
        Self { wait, raised: now }
    }

    fn is_forgotten(&self, ended: Timestamp) -> bool {
        let quiet = ended.duration_since(self.raised);
        quiet > jiff::SignedDuration::try_from(MOST * 2).expect("600 s is a small duration")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gaps between an end and the next start, of something that runs for `runs_s` each time.
    fn gaps_s(runs_s: u64, restarts: usize, most: Duration) -> Vec<i64> {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut backoff: Option<Backoff> = None;
        let mut gaps = Vec::new();
        for _ in 0..restarts {
            now += Duration::from_secs(runs_s);
            let ended = now;
            now = backoff.and_then(|b| b.due(ended)).unwrap_or(ended).max(now);
            backoff = Some(Backoff::raise(backoff.as_ref(), ended, now, most));
            gaps.push(now.duration_since(ended).as_secs());
        }
        gaps
    }

    #[test]
    fn the_wait_doubles_up_to_the_cap() {
        assert_eq!(gaps_s(1, 9, MOST), [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_forgive_everything() {
        assert_eq!(gaps_s(601, 4, MOST), [0, 0, 0, 0]);
        assert_eq!(gaps_s(590, 4, MOST), [0, 10, 20, 40]);
    }

    #[test]
    fn without_the_cap_it_goes_on() {
        assert_eq!(gaps_s(1, 8, Duration::MAX / 2), [0, 10, 20, 40, 80, 160, 320, 640]);
    }
}
