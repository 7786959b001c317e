//! What round trips must look like under some weather, and what they looked like.
//!
//! Bounds come from the round trips before and from what the weather adds, not from a guess. A packet
//! that is lost is sent again by TCP: it makes a round trip late by a retransmission timeout.

use shakedown_core::lever::Weather;

/// Less than this is not told from no latency.
pub(crate) const LEAST_US: u64 = 5_000;
/// Longer than any round trip: no answer came.
const NEVER: u64 = u64::MAX;
/// How much a round trip may differ by itself: 1 ms, and what it took before.
const MARGIN_US: u64 = 1_000;
/// A round trip that is later by this was lost on the way and sent again.
const RESENT_US: u64 = 100_000;

/// What is expected of the round trips of one pair.
#[derive(Debug)]
pub(crate) struct Expected {
    fastest: u64,
    slowest: u64,
    weather: Weather,
    /// How many times a packet of a round trip meets the weather.
    times: u64,
}

impl Expected {
    /// From the round trips before, of which there is at least one.
    pub(crate) fn new(before: &[u64], weather: &Weather, times: u64) -> Self {
        let fastest = before.iter().min().copied().unwrap_or(0);
        let slowest = before.iter().max().copied().unwrap_or(0);
        Self { fastest, slowest, weather: *weather, times }
    }

    /// From when on a round trip is slower than it would be without weather.
    pub(crate) fn slow_from(&self) -> u64 {
        match self.weather.latency_us {
            0 => self.slowest + self.weather.jitter_us / 4,
            latency => self.fastest + (latency * self.times).saturating_sub(MARGIN_US),
        }
    }

    /// The longest that a round trip takes of which nothing is lost.
    fn highest(&self) -> u64 {
        let added = (self.weather.latency_us + self.weather.jitter_us) * self.times;
        2 * self.slowest + MARGIN_US + added
    }

    /// How many round trips came late by a retransmission, or not at all.
    pub(crate) fn resent(&self, trips: &[Option<u64>]) -> usize {
        let limit = self.highest() + RESENT_US;
        trips.iter().filter(|trip| trip.is_none_or(|took| took > limit)).count()
    }

    /// Whether the round trips of one pair show the latency and its jitter, and what they were. Losses
    /// are counted over all pairs: one pair may be lucky.
    pub(crate) fn shows(&self, trips: &[Option<u64>]) -> (bool, String) {
        let weather = &self.weather;
        let (highest, late) = (self.highest(), self.resent(trips));
        let mut took: Vec<u64> = trips.iter().map(|trip| trip.unwrap_or(NEVER)).collect();
        took.sort_unstable();
        let Some(median) = took.get(took.len() / 2).copied() else {
            return (false, "no packet was sent yet".to_owned());
        };
        let slowest = took.last().copied().unwrap_or(0);
        let is_slow = match weather {
            Weather { latency_us: 0, jitter_us: 0, .. } => true,
            Weather { latency_us: 0, .. } => slowest >= self.slow_from(),
            // Whoever overtakes is not late; without weather nobody would be.
            Weather { reorder: 1.., .. } => {
                took.iter().any(|took| (self.slow_from()..=highest).contains(took))
            }
            _ => median >= self.slow_from(),
        };
        let is_within = weather.loss > 0 || slowest <= highest;
        let told = format!(
            "{} round trips, in the middle {}, up to {}, {late} of them sent again or lost; \
             before up to {}",
            trips.len(),
            tell(finite(median)),
            tell(finite(slowest)),
            tell(Some(self.slowest))
        );
        (is_slow && is_within, told)
    }
}

fn finite(took: u64) -> Option<u64> {
    (took != NEVER).then_some(took)
}

/// Up to when a round trip is as it was before.
pub(crate) fn as_before(before: &[u64]) -> u64 {
    2 * before.iter().max().copied().unwrap_or(0) + MARGIN_US
}

/// A round trip for people.
pub(crate) fn tell(took: Option<u64>) -> String {
    match took {
        Some(took) => format!("{:.1} ms", took as f64 / 1000.0),
        None => "no answer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(latency_us: u64, jitter_us: u64, loss: u32) -> Weather {
        Weather { latency_us, jitter_us, loss, reorder: 0 }
    }

    #[test]
    fn only_what_the_weather_says_is_shown() {
        let many = |took: u64| vec![Some(took); 8];
        let mut some_resent = many(1_000);
        some_resent[3] = Some(210_000);
        let mut spread = many(1_000);
        spread[5] = Some(90_000);
        for (weather, trips, shown) in [
            (late(50_000, 0, 0), many(101_000), true),
            (late(50_000, 0, 0), many(51_000), false),
            (late(50_000, 0, 0), many(1_000), false),
            (late(50_000, 0, 0), many(300_000), false),
            (late(50_000, 0, 0), vec![None; 8], false),
            (late(50_000, 0, 0), vec![], false),
            (late(0, 50_000, 0), spread.clone(), true),
            (late(0, 50_000, 0), many(1_000), false),
            (late(0, 0, 1000), some_resent.clone(), true),
            (late(0, 0, 0), some_resent.clone(), false),
            (late(0, 0, 10_000), vec![None; 8], true),
        ] {
            let expected = Expected::new(&[900, 1_000, 1_100], &weather, 2);
            let (is_shown, told) = expected.shows(&trips);
            assert_eq!(is_shown, shown, "{weather:?}: {told}");
        }
        let expected = Expected::new(&[900, 1_000, 1_100], &late(0, 0, 1000), 2);
        assert_eq!(expected.resent(&some_resent), 1);
        assert_eq!(expected.resent(&many(1_000)), 0);
        assert_eq!(expected.resent(&[None; 3]), 3);
    }
}
