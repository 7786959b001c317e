//! The small languages: quantities, schedules, paths, ages, versions, names.

use std::str::FromStr;

use env::Timestamp;
use machinery::custom::json_path::JsonPath;
use machinery::patch::PatchType;
use machinery::{Quantity, cron, duration, managed_fields, table, versions};
use serde_json::json;

use super::now;
use crate::fence::Fence;

pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    quantities(&text);
    if let Ok(cron::Schedule::Every(seconds)) = cron::parse(&text) {
        assert!(seconds > 0, "{text:?} would be due at every moment");
    }
    if let Ok(path) = JsonPath::read(&text) {
        let _ = path.names();
        let value = json!({"a": [{"b": 1}, {"b": "x"}, [1, 2]], "b": {"a": -1.5}, "c": null});
        assert!(path.find(&value).len() <= 10_000, "{text:?}");
    }
    let _ = versions::priority(&text);
    let _ = PatchType::from_media_type(&text);
    let _ = table::IncludeObject::from_query(&text);
    let manager = managed_fields::manager("", &text);
    assert_eq!(managed_fields::check_manager(&manager), None, "{text:?}");
    if let Ok(fence) = Fence::parse(&text) {
        assert_eq!(Fence::parse(&fence.text()), Ok(fence));
    }
    if let Ok(seconds) = text.parse::<i64>() {
        let _ = duration::human(seconds);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        let _ = duration::age(Some(at), now());
    }
}

fn quantities(text: &str) {
    let Ok(quantity) = Quantity::from_str(text) else { return };
    let printed = quantity.to_string();
    let again = Quantity::from_str(&printed).expect("what is printed can be read");
    assert_eq!(again, quantity, "{text:?} is printed as {printed:?}");
    assert_eq!(again.to_string(), printed, "the form is canonical");
    let _ = (quantity.value(), quantity.milli_value(), quantity.is_whole());
    let mut zero = quantity;
    zero -= quantity;
    assert!(zero.is_zero());
    assert_eq!(quantity + zero, quantity);
    assert!((quantity + quantity >= quantity) != quantity.is_negative());
}
