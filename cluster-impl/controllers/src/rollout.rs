//! The arithmetic of a rolling update, and the hash that names a template. Pure.

use machinery::Object;
use serde_json::Value;

/// The letters of a template's hash: those of generated names.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The letters that stand for a pod template: the same for equal templates, whatever the order of
/// their fields. `collisions` tells templates apart whose letters were taken.
pub fn template_hash(template: &Value, collisions: i64) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    digest(template, &mut hash);
    if collisions > 0 {
        eat(&collisions.to_le_bytes(), &mut hash);
    }
    let mut text = String::new();
    for _ in 0..10 {
        let letter = hash % LETTERS.len() as u64;
        text.push(char::from(LETTERS[usize::try_from(letter).expect("a letter's place is small")]));
        hash /= LETTERS.len() as u64;
    }
    text
}

/// FNV-1a, 64 bits.
fn eat(bytes: &[u8], hash: &mut u64) {
    for byte in bytes {
        *hash = (*hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

fn digest(value: &Value, hash: &mut u64) {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            eat(b"{", hash);
            for (name, value) in fields {
                eat(name.as_bytes(), hash);
                eat(b":", hash);
                digest(value, hash);
            }
            eat(b"}", hash);
        }
        Value::Array(list) => {
            eat(b"[", hash);
            list.iter().for_each(|value| digest(value, hash));
            eat(b"]", hash);
        }
        other => {
            eat(other.to_string().as_bytes(), hash);
            eat(b",", hash);
        }
    }
}

/// How far a rollout may stray from the number of replicas: (more, fewer).
pub fn bounds(deployment: &Object, replicas: i64) -> (i64, i64) {
    let resolve = |name: &str, round_up: bool| {
        let value = deployment.get(&format!("/spec/strategy/rollingUpdate/{name}"));
        match value {
            Some(Value::String(percent)) => {
                let share: i64 = percent.trim_end_matches('%').parse().unwrap_or(25);
                (replicas * share + if round_up { 99 } else { 0 }) / 100
            }
            Some(number) => number.as_i64().unwrap_or_default(),
            None => (replicas * 25 + if round_up { 99 } else { 0 }) / 100,
        }
    };
    let (surge, unavailable) = (resolve("maxSurge", true), resolve("maxUnavailable", false));
    // Both 0 would never get anywhere.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(replicas)) }
}

/// What counts of a ReplicaSet during a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// `spec.replicas`
    pub wanted: i64,
    /// `status.availableReplicas`
    pub available: i64,
}

/// How many replicas the new set should have now.
pub fn scale_new(new: Count, old: &[Count], replicas: i64, surge: i64) -> i64 {
    if new.wanted >= replicas {
        return replicas;
    }
    let all = new.wanted + old.iter().map(|set| set.wanted).sum::<i64>();
    new.wanted + (replicas + surge - all).clamp(0, replicas - new.wanted)
}

/// How many replicas each old set, oldest first, should have now: first those that do not work go,
/// then as many as the available ones allow.
pub fn scale_old(new: Count, old: &[Count], replicas: i64, unavailable: i64) -> Vec<i64> {
    let mut wanted: Vec<_> = old.iter().map(|set| set.wanted).collect();
    let least = replicas - unavailable;
    let all = new.wanted + wanted.iter().sum::<i64>();
    let mut may_go = all - least - (new.wanted - new.available).max(0);
    for (wanted, set) in wanted.iter_mut().zip(old) {
        let broken = (set.wanted - set.available).clamp(0, may_go.max(0));
        *wanted -= broken;
        may_go -= broken;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<i64>();
    let mut may_go = may_go.min(available - least).max(0);
    for wanted in &mut wanted {
        let gone = (*wanted).min(may_go);
        *wanted -= gone;
        may_go -= gone;
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hash_knows_the_template_and_not_the_order_of_its_fields() {
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let one = parse(r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#);
        assert_eq!(
            template_hash(&one, 0),
            template_hash(&parse(r#"{"b":"c","a":{"y":[1,2],"x":1}}"#), 0)
        );
        for other in [r#"{"a":{"x":1,"y":[2,1]},"b":"c"}"#, r#"{"a":{"x":1,"y":[12]},"b":"c"}"#] {
            assert_ne!(template_hash(&one, 0), template_hash(&parse(other), 0));
        }
        assert_ne!(template_hash(&one, 0), template_hash(&one, 1));
        assert_eq!(template_hash(&one, 0).len(), 10);
    }

    #[test]
    fn percentages_are_rounded_up_for_more_and_down_for_fewer() {
        let check = |surge: Value, unavailable: Value, replicas, expected| {
            let deployment = Object(json!({"spec": {"strategy": {"rollingUpdate":
                {"maxSurge": surge, "maxUnavailable": unavailable}}}}));
            assert_eq!(bounds(&deployment, replicas), expected);
        };
        check(json!("25%"), json!("25%"), 4, (1, 1));
        check(json!("25%"), json!("25%"), 3, (1, 0));
        check(json!("25%"), json!("25%"), 10, (3, 2));
        check(json!(0), json!(0), 3, (0, 1));
        check(json!(2), json!(5), 3, (2, 3));
    }

    /// Plays a rollout of `replicas` in which every new pod becomes available at once if `works`,
    /// and shows (new, old) after every step.
    fn play(replicas: i64, (surge, unavailable): (i64, i64), works: bool) -> Vec<(i64, i64)> {
        let mut new = Count { wanted: 0, available: 0 };
        let mut old = Count { wanted: replicas, available: replicas };
        let mut steps = Vec::new();
        loop {
            let before = (new.wanted, old.wanted);
            new.wanted = scale_new(new, &[old], replicas, surge);
            assert!(new.wanted + old.wanted <= replicas + surge, "too many");
            if new.wanted == before.0 {
                old.wanted = scale_old(new, &[old], replicas, unavailable)[0];
                old.available = old.available.min(old.wanted);
            }
            assert!(new.available + old.available >= replicas - unavailable, "too few");
            if works {
                new.available = new.wanted;
            }
            if (new.wanted, old.wanted) == before {
                return steps;
            }
            steps.push((new.wanted, old.wanted));
        }
    }

    #[test]
    fn a_rollout_stays_within_its_bounds() {
        assert_eq!(play(4, (1, 1), true), [(1, 4), (1, 2), (3, 2), (3, 0), (4, 0)],);
        assert_eq!(play(3, (0, 1), true), [(0, 2), (1, 2), (1, 1), (2, 1), (2, 0), (3, 0)]);
        assert_eq!(play(3, (1, 0), true).last(), Some(&(3, 0)));
        assert_eq!(play(4, (1, 1), false), [(1, 4), (1, 3), (2, 3)], "a broken image stops it");
        for replicas in 1..12 {
            for bounds in [(1, 0), (0, 1), (3, 2), (2, 5)] {
                let bounds = (bounds.0, bounds.1.min(replicas));
                assert_eq!(play(replicas, bounds, true).last(), Some(&(replicas, 0)));
            }
        }
    }

    #[test]
    fn old_pods_that_do_not_work_go_first() {
        let set = |wanted, available| Count { wanted, available };
        let new = set(1, 0);
        assert_eq!(scale_old(new, &[set(2, 2), set(2, 0)], 4, 1), [2, 1]);
        assert_eq!(scale_old(set(2, 2), &[set(2, 2), set(1, 0)], 4, 1), [1, 0]);
    }
}
